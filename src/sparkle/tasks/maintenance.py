"""Looking after the ledger's database without opening it as a ledger."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sparkle.errors import MissingExtraError
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
        if (exc.name or "").partition(".")[0] in ("sqlalchemy", "alembic"):
            raise MissingExtraError("tasks", "the ledger of long tasks") from None
        raise
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
