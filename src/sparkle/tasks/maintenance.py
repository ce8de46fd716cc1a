"""Looking after the ledger's database without opening it as a ledger."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from sparkle.errors import MissingExtraError, SparkleError
from sparkle.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy import Engine

_BUSY_SECONDS = 10.0


@contextmanager
def ledger_engine(settings: Settings) -> Generator[Engine]:
    """The engine of the ledger's database, in whatever state its tables are.

    Raises:
        MissingExtraError: The extra ``tasks`` or ``postgres`` is not installed.
        ConfigurationError: The URL is of another kind of database.
        LedgerUnavailableError: An SQLite file cannot be made.
    """
    try:
        from sparkle.tasks.ledger.engine import ledger_url, make_engine, prepare_sqlite_file
    except ImportError as exc:
        raise _missing(exc) from None
    url = ledger_url(settings.tasks.database_url or settings.data_dir)
    if url.get_backend_name() == "sqlite":
        prepare_sqlite_file(url, _BUSY_SECONDS)
    engine = make_engine(url, synchronous=settings.tasks.sqlite_synchronous, busy_seconds=_BUSY_SECONDS)
    try:
        yield engine
    finally:
        engine.dispose()


def migrate_ledger(settings: Settings) -> tuple[str | None, str]:
    """Create or upgrade the ledger's tables; returns the revisions before and after.

    Raises:
        LedgerSchemaError: A newer Sparkle made them.
        LedgerUnavailableError: The database does not answer.
        MissingExtraError: An extra is not installed.
    """
    with ledger_engine(settings) as engine:
        from sparkle.tasks.ledger.migrate import migrate

        return migrate(engine)


def ledger_exists(settings: Settings) -> bool:
    """Whether there is a database to look at: always, unless it would be an SQLite file that nobody has made yet.

    Raises:
        MissingExtraError: The extra ``tasks`` or ``postgres`` is not installed.
        ConfigurationError: The URL is of another kind of database.
    """
    try:
        from sparkle.tasks.ledger.engine import ledger_url
    except ImportError as exc:
        raise _missing(exc) from None
    url = ledger_url(settings.tasks.database_url or settings.data_dir)
    return url.get_backend_name() != "sqlite" or Path(str(url.database)).exists()


def _missing(exc: ImportError) -> ImportError | MissingExtraError:
    """What a failed import means: an extra, or a fault of ours."""
    if (exc.name or "").partition(".")[0] in ("sqlalchemy", "alembic"):
        return MissingExtraError("tasks", "the ledger of long tasks")
    return exc


def is_ready(settings: Settings) -> bool:
    """Whether the ledger can be opened as it is: it exists, answers, and its tables are current. Makes nothing."""
    try:
        if not ledger_exists(settings):
            return False
        with ledger_engine(settings) as engine:
            from sparkle.tasks.ledger.migrate import is_current

            return is_current(engine)
    except SparkleError:
        return False
