"""The ledger, put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from sparkle.clock import Clock, SystemClock
from sparkle.errors_tasks import LedgerSchemaError
from sparkle.tasks.ids import TaskIds
from sparkle.tasks.ledger.adding import Adding
from sparkle.tasks.ledger.base import DEFAULT_MAX_CRASHES
from sparkle.tasks.ledger.engine import ledger_url, make_engine, prepare_sqlite_file
from sparkle.tasks.ledger.living import Living
from sparkle.tasks.ledger.migrate import is_current, migrate
from sparkle.tasks.ledger.queries import Queries
from sparkle.tasks.ledger.relaying import Relaying
from sparkle.tasks.ledger.steering import Steering
from sparkle.tasks.ledger.working import Working


class Ledger(Adding, Relaying, Working, Steering, Queries, Living):
    """What tasks there are and who may run them; one process's access to it, usable from several threads.

    Each method is one transaction of its own unless it is given a connection. All raise LedgerUnavailableError when the
    database does not answer and LedgerSchemaError when its tables are missing or of another version.
    """

    @classmethod
    def open(
        cls,
        target: str | Path,
        *,
        clock: Clock | None = None,
        ids: Callable[[], str] | None = None,
        synchronous: str = "normal",
        busy_seconds: float = 10.0,
        max_crashes: int = DEFAULT_MAX_CRASHES,
    ) -> Ledger:
        """Open the ledger.

        An SQLite file is made and brought up to date here. A PostgreSQL database is only looked at: `sparkle tasks
        migrate` changes it.

        Args:
            target: A data folder (its ``tasks.db``), or the URL of a database.
            clock: Time; ``None``: the machine's. All processes of one ledger should agree to a second or so.
            ids: Makes the tasks' ids; ``None``: UUIDs of version 7.
            synchronous: SQLite only: ``normal`` or ``full``, see the settings.
            busy_seconds: How long to wait for a lock or a free connection.
            max_crashes: How often a worker may die over one task.

        Raises:
            LedgerUnavailableError: It cannot be reached or made.
            LedgerSchemaError: Its tables are missing or of another version.
            ConfigurationError: The URL is of another kind of database.
            MissingExtraError: The driver is not installed.
        """
        url = ledger_url(target)
        clock = clock or SystemClock()
        if url.get_backend_name() == "sqlite":
            prepare_sqlite_file(url, busy_seconds)
        engine = make_engine(url, synchronous=synchronous, busy_seconds=busy_seconds)
        try:
            if not is_current(engine):
                if engine.dialect.name != "sqlite":
                    raise LedgerSchemaError
                migrate(engine)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine, clock=clock, ids=ids or TaskIds(clock), max_crashes=max_crashes)

    def close(self) -> None:
        """Close all connections. The ledger opens new ones if it is used again."""
        self._engine.dispose()

    def __enter__(self) -> Ledger:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()
