"""The embedded store: one SQLite file shared by all processes of a machine.

A batch is one ``BEGIN IMMEDIATE`` transaction on the event loop's own thread (some tens of microseconds, no
fsync). It never waits for another process: a busy database raises StoreBusyError and the batch is tried again
a moment later. What takes longer (checkpoints with their fsync, pruning) runs in a thread on a connection of
its own.

Durability: WAL with ``synchronous=NORMAL``. A killed process loses nothing; a power cut may lose the last
moments before it, never the file.
"""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import cast

import msgspec

from sparkle.clock import Clock
from sparkle.errors import StoreUnavailableError
from sparkle.llm.quota import engine
from sparkle.llm.quota.engine import Meter
from sparkle.llm.quota.ops import Batch, Hold, Result, StoreBusyError
from sparkle.sqlite_wal import use_wal

SCHEMA_VERSION = 1
_SCHEMA = """
CREATE TABLE IF NOT EXISTS meter (
    key TEXT PRIMARY KEY, spent INTEGER NOT NULL, reserved INTEGER NOT NULL, expires INTEGER NOT NULL, log BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS reservation (
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, holds BLOB NOT NULL, progress BLOB
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS late (
    id TEXT PRIMARY KEY, charged BLOB NOT NULL, expires INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS owner (
    id TEXT PRIMARY KEY, lease_until INTEGER NOT NULL, beat_at INTEGER NOT NULL
) WITHOUT ROWID;
"""
_WRITE_METER = """
INSERT INTO meter VALUES (?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET
    spent = excluded.spent, reserved = excluded.reserved, expires = excluded.expires, log = excluded.log
"""
#: Length of the WAL, in pages of 4 KiB, above which it is made to start from the beginning.
_RESET_PAGES = 16_384
_PRUNE_SECONDS = 600.0
_PRUNE_ROWS = 500
_OPEN_SECONDS = 5.0

_encode = msgspec.msgpack.Encoder().encode
_decode_log = msgspec.msgpack.Decoder(list[list[int]]).decode
_decode_holds = msgspec.msgpack.Decoder(tuple[Hold, ...]).decode
_decode_amounts = msgspec.msgpack.Decoder(tuple[int, ...]).decode


class SqliteStore:
    """Reservations in one SQLite file. Every process opens its own store after it was forked.

    Args:
        path: The database file; its folder is created.
        clock: Wall time; all processes of one machine share it.
    """

    offset = 0.0

    def __init__(self, path: Path, *, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self._conn: sqlite3.Connection | None = None
        self._maintenance: asyncio.Task[None] | None = None
        self._pruned_at = clock.monotonic()

    async def start(self) -> None:
        """Open the file and bring its schema up to date. Raises StoreUnavailableError."""
        await asyncio.to_thread(self._prepare)
        # Another process may be creating or closing the file: only a start waits for that.
        self._open(wait=_OPEN_SECONDS)

    async def apply(self, batch: Batch) -> list[Result]:
        """See :class:`~sparkle.llm.quota.ops.QuotaStore`; completes without giving up the event loop."""
        return self.apply_at_once(batch)

    def apply_at_once(self, batch: Batch) -> list[Result]:
        """See :class:`~sparkle.llm.quota.ops.AtOnceStore`."""
        conn = self._conn or self._open()
        ledger = _SqliteLedger(conn)
        try:
            conn.execute("BEGIN IMMEDIATE")
            results = engine.apply(ledger, batch, int(self._clock.now() * 1000))
            ledger.write()
            conn.execute("COMMIT")
        except sqlite3.Error as exc:
            self._undo(conn)
            if _is_busy(exc):
                raise StoreBusyError from None
            # The connection may be what is broken (a file replaced, a disk full); the next batch opens a new
            # one.
            self._discard()
            raise StoreUnavailableError(details={"cause": type(exc).__name__}, retry_after=1.0) from None
        except BaseException:
            self._undo(conn)
            raise
        return results

    async def maintain(self) -> None:
        """Start pruning and checkpointing in a thread unless the last round still runs."""
        if self._maintenance is None or self._maintenance.done():
            self._maintenance = asyncio.create_task(
                asyncio.to_thread(self._keep_house), name="quota-sqlite-house"
            )
            self._maintenance.add_done_callback(_retrieve)

    async def close(self) -> None:
        """Finish housekeeping and close the file. Idempotent."""
        if self._maintenance is not None:
            with contextlib.suppress(sqlite3.Error):
                await self._maintenance
            self._maintenance = None
        self._discard()

    def _connect(self, *, wait: float) -> sqlite3.Connection:
        conn = sqlite3.connect(self._path, timeout=wait, isolation_level=None, cached_statements=64)
        try:
            conn.execute("PRAGMA synchronous=NORMAL")
            # Checkpoints call fsync; they belong into the thread that keeps house.
            conn.execute("PRAGMA wal_autocheckpoint=0")
            conn.execute("PRAGMA cache_size=-4096")
        except sqlite3.Error:
            conn.close()
            raise
        return conn

    def _open(self, *, wait: float = 0.0) -> sqlite3.Connection:
        try:
            conn = self._connect(wait=wait)
        except sqlite3.Error as exc:
            if wait == 0.0 and _is_busy(exc):
                raise StoreBusyError from None
            raise _unavailable(exc) from None
        conn.execute("PRAGMA busy_timeout=0")  # from here on the event loop must not wait for a lock
        self._conn = conn
        return conn

    def _prepare(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.closing(self._connect(wait=10.0)) as conn:
                # A transaction changes a row here and there: small pages are less to sum and to write (a fifth less
                # processor time a transaction than with 4,096). A file that exists keeps its size.
                conn.execute("PRAGMA page_size=1024")
                use_wal(conn)
                conn.execute("BEGIN IMMEDIATE")
                (version,) = conn.execute("PRAGMA user_version").fetchone()
                if version not in (0, SCHEMA_VERSION):
                    raise StoreUnavailableError(
                        f"quota store {self._path.name} has schema version {version}, "
                        f"this Sparkle knows {SCHEMA_VERSION}"
                    )
                for statement in _SCHEMA.split(";"):
                    conn.execute(statement)
                conn.execute(f"PRAGMA user_version={SCHEMA_VERSION}")
                conn.execute("COMMIT")
        except (sqlite3.Error, OSError) as exc:
            raise _unavailable(exc) from None

    def _keep_house(self) -> None:
        with contextlib.closing(self._connect(wait=1.0)) as conn:
            now = self._clock.monotonic()
            if now - self._pruned_at >= _PRUNE_SECONDS:
                self._pruned_at = now
                _prune(conn, int(self._clock.now() * 1000))
            # PASSIVE copies what it can without holding anybody up. Only when the WAL still is long, writers
            # are asked to wait (they see "busy" and try again), so that it can start from the beginning.
            _, pages, _ = cast(
                "tuple[int, int, int]", conn.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()
            )
            if pages > _RESET_PAGES:
                conn.execute("PRAGMA wal_checkpoint(RESTART)").fetchone()

    def _undo(self, conn: sqlite3.Connection) -> None:
        with contextlib.suppress(sqlite3.Error):
            if conn.in_transaction:
                conn.execute("ROLLBACK")

    def _discard(self) -> None:
        conn, self._conn = self._conn, None
        if conn is not None:
            with contextlib.suppress(sqlite3.Error):
                conn.close()


class _SqliteLedger:
    """One transaction's view: rows are read when asked for and written back once."""

    __slots__ = ("_added", "_conn", "_meters")

    def __init__(self, conn: sqlite3.Connection) -> None:
        self._conn = conn
        self._meters: dict[str, Meter] = {}
        self._added: dict[str, tuple[str, tuple[Hold, ...]]] = {}

    def meter(self, key: str) -> Meter:
        meter = self._meters.get(key)
        if meter is None:
            row = self._conn.execute(
                "SELECT spent, reserved, expires, log FROM meter WHERE key = ?", (key,)
            ).fetchone()
            if row is None:
                meter = Meter()
            else:
                spent, reserved, expires, log = row
                meter = Meter(spent, reserved, expires, _decode_log(log) if log else None)
            self._meters[key] = meter
        return meter

    def add(self, reservation: str, owner: str, holds: tuple[Hold, ...]) -> None:
        self._added[reservation] = (owner, holds)

    def take(self, reservation: str) -> bool:
        if self._added.pop(reservation, None) is not None:
            return True
        return self._conn.execute("DELETE FROM reservation WHERE id = ?", (reservation,)).rowcount > 0

    def held(self, reservation: str) -> tuple[Hold, ...] | None:
        if reservation in self._added:
            return self._added[reservation][1]
        row = self._conn.execute("SELECT holds FROM reservation WHERE id = ?", (reservation,)).fetchone()
        return _decode_holds(row[0]) if row else None

    def held_by(self, owner: str) -> Sequence[tuple[str, tuple[Hold, ...], tuple[int, ...]]]:
        self._write_added()
        rows = self._conn.execute(
            "SELECT id, holds, progress FROM reservation WHERE owner = ? ORDER BY id", (owner,)
        )
        return [(r, _decode_holds(h), _decode_amounts(p) if p else ()) for r, h, p in rows.fetchall()]

    def set_progress(self, reservation: str, amounts: tuple[int, ...]) -> None:
        self._write_added()
        self._conn.execute(
            "UPDATE reservation SET progress = ? WHERE id = ?", (_encode(amounts), reservation)
        )

    def add_late(self, reservation: str, charged: tuple[int, ...], expires: int) -> None:
        self._conn.execute(
            "INSERT OR IGNORE INTO late VALUES (?, ?, ?)", (reservation, _encode(charged), expires)
        )

    def take_late(self, reservation: str) -> tuple[int, ...] | None:
        row = self._conn.execute("SELECT charged FROM late WHERE id = ?", (reservation,)).fetchone()
        if row is None:
            return None
        self._conn.execute("DELETE FROM late WHERE id = ?", (reservation,))
        return _decode_amounts(row[0])

    def was_cancelled(self, reservation: str) -> bool:
        # A batch is applied before apply() returns, so nothing can arrive after its own cancellation.
        return False

    def owner(self, owner: str) -> tuple[int, int] | None:
        return self._conn.execute("SELECT lease_until, beat_at FROM owner WHERE id = ?", (owner,)).fetchone()

    def owners(self) -> Iterable[tuple[str, int]]:
        return self._conn.execute("SELECT id, lease_until FROM owner ORDER BY id").fetchall()

    def put_owner(self, owner: str, lease_until: int, beat_at: int) -> None:
        self._conn.execute("INSERT OR REPLACE INTO owner VALUES (?, ?, ?)", (owner, lease_until, beat_at))

    def drop_owner(self, owner: str) -> None:
        self._conn.execute("DELETE FROM owner WHERE id = ?", (owner,))

    def write(self) -> None:
        """Write back what the batch changed."""
        self._write_added()
        rows = [
            (key, m.spent, m.reserved, m.expires, _encode(m.log) if m.log else None)
            for key, m in self._meters.items()
            if m.dirty
        ]
        if rows:
            self._conn.executemany(_WRITE_METER, rows)

    def _write_added(self) -> None:
        if self._added:
            rows = [(r, owner, _encode(holds)) for r, (owner, holds) in self._added.items()]
            self._conn.executemany("INSERT INTO reservation VALUES (?, ?, ?, NULL)", rows)
            self._added.clear()


def _prune(conn: sqlite3.Connection, now: int) -> None:
    """Forget old windows in small steps, so that nobody waits long for the file."""
    for statement in (
        "DELETE FROM meter WHERE key IN (SELECT key FROM meter WHERE expires < ? AND reserved = 0 LIMIT ?)",
        "DELETE FROM late WHERE id IN (SELECT id FROM late WHERE expires < ? LIMIT ?)",
    ):
        while conn.execute(statement, (now, _PRUNE_ROWS)).rowcount == _PRUNE_ROWS:
            pass


def _is_busy(exc: sqlite3.Error) -> bool:
    # The low byte of the extended code: BUSY (5) or LOCKED (6) in all their variants.
    return getattr(exc, "sqlite_errorcode", 0) & 0xFF in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)


def _unavailable(exc: Exception) -> StoreUnavailableError:
    return StoreUnavailableError(details={"cause": type(exc).__name__}, retry_after=1.0)


def _retrieve(task: asyncio.Task[None]) -> None:
    # Housekeeping that failed (busy, disk full) is tried again with the next heartbeat; calls notice a broken
    # file.
    if not task.cancelled():
        task.exception()
