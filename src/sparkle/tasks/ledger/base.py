"""What every part of the ledger stands on: the engine, transactions, the clock."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import contextmanager
from typing import Any

import msgspec
from sqlalchemy import Connection, CursorResult, Engine

from sparkle.clock import Clock
from sparkle.tasks.ledger.engine import database_errors
from sparkle.tasks.ledger.statements import statements

MICROSECONDS = 1_000_000
DEFAULT_MAX_CRASHES = 3

_encode = msgspec.json.Encoder().encode


class LedgerBase:
    """Engine, clock, ids and transactions. Usable from several threads."""

    def __init__(
        self,
        engine: Engine,
        *,
        clock: Clock,
        ids: Callable[[], str],
        max_crashes: int = DEFAULT_MAX_CRASHES,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._ids = ids
        self._max_crashes = max_crashes
        self._id: str | None = None
        self._own_engines: weakref.WeakSet[Engine] = weakref.WeakSet()
        self._dialect = engine.dialect.name
        self._statements = statements(self._dialect)
        self._reader = engine.execution_options(sparkle_read=True)

    @property
    def engine(self) -> Engine:
        """The engine, for effects of one's own on the ledger's database."""
        return self._engine

    @property
    def dialect(self) -> str:
        """``"sqlite"`` or ``"postgresql"``."""
        return self._dialect

    def now(self) -> int:
        """Microseconds since the epoch by the ledger's clock."""
        return int(self._clock.now() * MICROSECONDS)

    @contextmanager
    def write(self) -> Generator[Connection]:
        """A write transaction: commits at the end of the block, rolls back on an error.

        On SQLite it holds the file's only write lock from the beginning to the end, so keep it short.

        Raises:
            LedgerUnavailableError: The database does not answer. What the block itself raises passes unchanged.
        """
        with database_errors():
            connection = self._engine.connect()
        with connection:
            with database_errors():
                transaction = connection.begin()
            with transaction:
                yield connection
                with database_errors():
                    transaction.commit()

    @contextmanager
    def _writing(self) -> Generator[Connection]:
        """A write transaction of the ledger's own: every database error is the ledger's."""
        with database_errors(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def read(self) -> Generator[Connection]:
        """A read transaction: sees one state of the database, holds nobody up.

        Raises:
            LedgerUnavailableError: The database does not answer.
        """
        with database_errors(), self._reader.begin() as connection:
            yield connection

    def _run(self, connection: Connection, name: str, /, **values: Any) -> CursorResult[*tuple[Any, ...]]:
        """Execute the statement ``name`` of ``ledger.sql``."""
        return connection.execute(self._statements[name], values)

    def _lock_rows(self, connection: Connection, ids: Iterable[str]) -> None:
        """Lock rows in the order of their ids before a statement that changes several of them in whatever order."""
        if self._dialect == "postgresql":
            self._run(connection, "lock_rows", ids=json(sorted(ids))).all()


def json(value: Sequence[Any]) -> str:
    """``value`` as the JSON parameter of a statement."""
    return _encode(value).decode()
