"""Brings a database's tables to the version that this Sparkle knows."""

from __future__ import annotations

from importlib.resources import as_file, files

from sqlalchemy import Connection, Engine, inspect, text

from sparkle.errors_tasks import LedgerSchemaError
from sparkle.tasks.ledger.engine import database_errors

VERSION_TABLE = "sparkle_schema"
HEAD = "0002"
"""The newest revision in ``migrations/versions``; a test compares."""
_LOCK = 0x5350_4152_4B4C_45
"""Key of the advisory lock that lets one process migrate a PostgreSQL database at a time ("SPARKLE")."""


def current_revision(engine: Engine) -> str | None:
    """The revision a database is at; ``None`` where it has no ledger yet. Raises LedgerUnavailableError."""
    with database_errors(), engine.execution_options(sparkle_read=True).connect() as connection:
        return _revision(connection)


def is_current(engine: Engine) -> bool:
    """Whether a database is at the revision that this Sparkle knows. Raises LedgerUnavailableError."""
    return current_revision(engine) == HEAD


def migrate(engine: Engine, *, to: str = HEAD) -> tuple[str | None, str]:
    """Create or upgrade the tables, in one transaction; of several processes one does it, the others wait.

    Args:
        engine: As ``make_engine`` makes it.
        to: The revision to stop at.

    Returns:
        The revision before and after.

    Raises:
        LedgerSchemaError: The database is at a revision that this Sparkle does not know: a newer one made it.
        LedgerUnavailableError: The database does not answer.
    """
    # Alembic takes a fifth of a second to import, and most starts do not need it.
    from alembic import command
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    with as_file(files("sparkle").joinpath("tasks", "ledger", "migrations")) as folder:
        config = Config()
        config.set_main_option("script_location", str(folder).replace("%", "%%"))
        with database_errors(), engine.begin() as connection:
            if engine.dialect.name == "postgresql":
                connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": _LOCK})
            before = _revision(connection)
            known = {script.revision for script in ScriptDirectory.from_config(config).walk_revisions()}
            if before is not None and before not in known:
                raise LedgerSchemaError(
                    f"the ledger is at revision {before}, which this Sparkle does not know; it was made by a newer "
                    "one: upgrade sparkle-llm"
                )
            config.attributes["connection"] = connection
            command.upgrade(config, to)
            return before, to


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table(VERSION_TABLE):
        return None
    # The name is a constant of this module.
    row = connection.execute(text(f"SELECT version_num FROM {VERSION_TABLE}")).one_or_none()  # noqa: S608
    return None if row is None else str(row[0])
