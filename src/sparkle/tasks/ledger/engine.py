"""The connection to the ledger's database: SQLite or PostgreSQL, and what its errors mean."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Generator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, create_engine, event
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, DBAPIError, IntegrityError, SQLAlchemyError

from sparkle.errors import ConfigurationError, MissingExtraError, SparkleError
from sparkle.errors_tasks import LedgerSchemaError, LedgerUnavailableError
from sparkle.masking import mask_urls
from sparkle.sqlite_wal import use_wal
from sparkle.tasks.ledger.sqlite_lock import READ, WRITE, begin

LEDGER_FILE = "tasks.db"
"""Name of the SQLite ledger in the data folder."""
_CHECKPOINT_PAGES = 4_000
"""Pages of the write-ahead file at which a writer has to fold it in itself; the relay does it long before."""
_MISSING_TABLE = ("no such table", "no such column", "undefinedtable", "undefinedcolumn")
_CONNECT_SECONDS = 5


def ledger_url(target: str | Path) -> URL:
    """The address of the database.

    Args:
        target: A data folder, or a URL: ``sqlite:///tasks.db``, ``postgresql://user@host/name``.

    Raises:
        ConfigurationError: Another kind of database.
        MissingExtraError: The driver of PostgreSQL is not installed.
    """
    if isinstance(target, Path):
        return URL.create("sqlite", database=str(target / LEDGER_FILE))
    try:
        url = make_url(target)
    except ArgumentError:
        raise ConfigurationError("tasks.database_url is not the address of a database") from None
    match url.get_backend_name():
        case "sqlite":
            if not url.database or url.database == ":memory:":
                raise ConfigurationError("the ledger needs a file: sqlite:///path/to/tasks.db")
            return url.set(drivername="sqlite")
        case "postgresql" | "postgres":
            if find_spec("psycopg") is None:
                raise MissingExtraError("postgres", "a ledger in PostgreSQL")
            return url.set(drivername="postgresql+psycopg")
        case other:
            raise ConfigurationError(f"the ledger can live in SQLite or PostgreSQL, not in {other!r}")


def make_engine(url: URL, *, synchronous: str, busy_seconds: float) -> Engine:
    """An engine for the ledger's own connections; connects when first used."""
    if url.get_backend_name() == "sqlite":
        return _sqlite_engine(url, synchronous, busy_seconds)
    engine = create_engine(
        url,
        pool_size=4,
        max_overflow=12,
        pool_timeout=busy_seconds,
        # A server that was restarted is noticed before a statement fails on it.
        pool_pre_ping=True,
        connect_args={"connect_timeout": _CONNECT_SECONDS, "application_name": "sparkle"},
        isolation_level="READ COMMITTED",
    )
    _reset_after_fork(engine)
    return engine


def _sqlite_engine(url: URL, synchronous: str, busy_seconds: float) -> Engine:
    if sqlite3.sqlite_version_info < (3, 35):
        raise ConfigurationError(
            f"the ledger needs SQLite 3.35 or newer, this Python brings {sqlite3.sqlite_version}"
        )
    engine = create_engine(
        url,
        pool_size=4,
        max_overflow=12,
        # Every transaction waits for the file by itself, see `began`; within one there is nothing to wait for.
        connect_args={"timeout": 0.0, "check_same_thread": False, "cached_statements": 256},
    )

    def connected(db: sqlite3.Connection, _record: object) -> None:
        # Transactions are begun by us (see `began`): pysqlite would begin them too late to be of use.
        db.isolation_level = None
        db.execute(f"PRAGMA synchronous={synchronous}")
        db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
        # Also what a sort may hold in memory before it goes to a temporary file (``temp_store`` stays at that).
        db.execute("PRAGMA cache_size=-8192")
        db.execute("PRAGMA foreign_keys=ON")

    def began(connection: Connection) -> None:
        # A writer that takes its lock at the first write may find that a reader has become stale: "locked" at once,
        # whatever the busy timeout says. So whoever may write says so at the beginning.
        statements = READ if connection.get_execution_options().get("sparkle_read", False) else WRITE
        db: Any = connection.connection.driver_connection
        if not begin(db, statements, busy_seconds):
            for statement in statements:  # once more, so that the error is one of SQLAlchemy's
                connection.exec_driver_sql(statement)

    event.listen(engine, "connect", connected)
    event.listen(engine, "begin", began)
    _reset_after_fork(engine)
    return engine


def _reset_after_fork(engine: Engine) -> None:
    """Connections of the parent are none of the child's."""
    pid = os.getpid()

    def checked_out(_db: object, record: Any, proxy: Any) -> None:
        if record.info.setdefault("pid", pid) != os.getpid():
            from sqlalchemy.exc import DisconnectionError

            record.dbapi_connection = proxy.dbapi_connection = None
            raise DisconnectionError("this connection belongs to the process that forked this one")

    def connected(_db: object, record: Any) -> None:
        record.info["pid"] = os.getpid()

    event.listen(engine, "connect", connected)
    event.listen(engine, "checkout", checked_out)


def prepare_sqlite_file(url: URL, busy_seconds: float) -> None:
    """Make the file, its folder, and the two settings that are written into it.

    Raises:
        LedgerUnavailableError: It cannot be made or read.
    """
    path = Path(str(url.database))
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        db = sqlite3.connect(path, timeout=busy_seconds, isolation_level=None)
        try:
            # A file that is in use already must not be waited for: its writer may take its time.
            if db.execute("PRAGMA journal_mode").fetchone() != ("wal",):
                # Only a new file takes this; it lets deleted rows' pages be given back a few at a time.
                db.execute("PRAGMA auto_vacuum=INCREMENTAL")
                use_wal(db, timeout=busy_seconds)
        finally:
            db.close()
        path.chmod(0o600)
    except (sqlite3.Error, OSError) as exc:
        raise LedgerUnavailableError(
            f"the ledger {path.name} cannot be opened ({exc}); check the data folder's owner and free space"
        ) from exc


@contextmanager
def database_errors() -> Generator[None]:
    """Turns the database's errors into ours. No message repeats a statement's values.

    Raises:
        LedgerSchemaError: Tables are missing or of another version.
        LedgerUnavailableError: Anything else that the database says, except a broken constraint.
    """
    try:
        yield
    except SparkleError:
        raise
    except IntegrityError:
        raise
    except DBAPIError as exc:
        said = f"{type(exc.orig).__name__} {exc.orig}".lower().replace(" ", "")
        if any(sign.replace(" ", "") in said for sign in _MISSING_TABLE):
            raise LedgerSchemaError from None
        reason = mask_urls(str(exc.orig)).partition("\n")[0][:200]
        raise LedgerUnavailableError(
            f"the tasks' database does not answer: {reason}",
            retry_after=1.0,
            details={"cause": type(exc.orig).__name__},
        ) from None
    except SQLAlchemyError as exc:
        # The pool is exhausted, or the connection was closed under us.
        raise LedgerUnavailableError(
            f"the tasks' database cannot be used: {type(exc).__name__}",
            retry_after=1.0,
            details={"cause": type(exc).__name__},
        ) from None
