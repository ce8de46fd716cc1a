"""Records of short tasks on their way to the ledger: in batches, in a thread, behind the tasks."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Protocol, TypeVar

from sparkle.clock import Clock
from sparkle.tasks.burial import mark
from sparkle.tasks.handle import TaskHandle
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.waits import happens_within

T = TypeVar("T")
log = logging.getLogger("sparkle.tasks")
ALIVE_SECONDS = 15.0
"""How long the ledger believes in this process after each announcement."""
_ANNOUNCE_SECONDS = ALIVE_SECONDS / 3
_BATCH = 500
_EARLY = 2_000
"""So many changed tasks are written at once, without waiting for the time."""
_LONGEST_PAUSE = 30.0


class ShortLedger(Protocol):
    """What short tasks need of a ledger. Called from one thread that is not the event loop's."""

    def write_short(self, records: Sequence[TaskRecord]) -> None:
        """Insert or replace these short tasks."""
        ...

    def announce(
        self, owner: str, kind: str, alive_seconds: float, *, info: Mapping[str, Any] | None = None
    ) -> None:
        """Say that this process lives so many seconds longer."""
        ...

    def leave(self, owner: str) -> None:
        """Say that this process ends."""
        ...

    def cancel_requests(self, owner: str) -> list[str]:
        """Ids of this process's unfinished tasks that somebody elsewhere wants cancelled."""
        ...


class WriteBehind:
    """Keeps the ledger's rows of this process's short tasks up to date.

    A task that begins and ends between two writes is written once. While the ledger does not answer, records wait, at
    most ``unwritten`` of them; what has to go then is counted in :attr:`lost`.

    Args:
        ledger: Where they are written.
        clock: Time between two writes.
        owner: Id under which this process announces itself.
        write_seconds: Time between two writes.
        unwritten: Most finished tasks whose records wait.
        cancel: Called with the id of a task that somebody elsewhere wants cancelled.
    """

    def __init__(
        self,
        ledger: ShortLedger,
        clock: Clock,
        *,
        owner: str,
        write_seconds: float,
        unwritten: int,
        cancel: Callable[[str], object],
    ) -> None:
        self.owner = owner
        self.error: str | None = None
        """Class of the error with which the latest write failed; ``None``: it worked."""
        self.lost = 0
        """Records given up because too many waited."""
        self._ledger = ledger
        self._clock = clock
        self._write_seconds = write_seconds
        self._unwritten = unwritten
        self._cancel = cancel
        self._changed: dict[TaskHandle[Any], None] = {}
        self._backlog: dict[str, TaskRecord] = {}
        self._under_way = 0
        self._wake = asyncio.Event()
        self._written = asyncio.Event()
        self._stopping = False
        self._announced: float | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="sparkle-task-records")

    @property
    def waiting(self) -> int:
        """Records that are not in the ledger yet."""
        return len(self._changed) + len(self._backlog) + self._under_way

    @property
    def behind(self) -> bool:
        """Whether tasks should start no faster than their records can be written. Never while the ledger fails."""
        return len(self._changed) >= self._unwritten and self.error is None

    async def caught_up(self) -> None:
        """Wait for the end of a write, while :attr:`behind`."""
        while self.behind and not self._stopping:
            self._written.clear()
            self._wake.set()
            await self._written.wait()

    def note(self, handle: TaskHandle[Any]) -> None:
        """``handle`` has changed its state."""
        if self.error is not None and len(self._changed) >= self._unwritten and handle not in self._changed:
            self.lost += (
                handle.done()
            )  # the ledger has its rest, up to half a minute: memory must not pay for it
            return
        self._changed[handle] = None
        if len(self._changed) == _EARLY:
            self._wake.set()

    async def run(self) -> None:
        """Write until :meth:`stop`; then :meth:`finish` has to be called."""
        pause = self._write_seconds
        while not self._stopping:
            failed = not await self._flush()
            pause = min(pause * 2, _LONGEST_PAUSE) if failed else self._write_seconds
            if failed:
                self._wake.clear()  # tasks go on; the ledger gets its rest
            if not self._stopping:
                await happens_within(self._wake, pause, self._clock)

    def stop(self) -> None:
        """Let :meth:`run` end."""
        self._stopping = True
        self._wake.set()

    async def finish(self) -> None:
        """Write what is left, once, and say goodbye. After :meth:`run` has ended, in whatever way."""
        try:
            await self._flush()
            await self._in_thread(self._leave)
        finally:
            self._written.set()
            self._thread.shutdown(wait=False)
            if left := self.waiting:
                self.lost += left
                log.error("%d records of short tasks did not reach the ledger (%s)", left, self.error)

    async def _flush(self) -> bool:
        """Write what has changed. False: it failed, and everything waits for the next time."""
        self._wake.clear()
        changed, self._changed = self._changed, {}
        # What goes on changing is read here, on the loop; what is over stays as it is and can be read in the thread.
        items = [handle if handle.done() else handle.snapshot(self.owner) for handle in changed]
        backlog, self._backlog = self._backlog, {}
        records: list[TaskRecord] = [*backlog.values()]
        self._under_way = len(records) + len(items)
        try:
            for id_ in await self._in_thread(self._write, records, items):
                self._cancel(id_)
        except asyncio.CancelledError:
            self._keep(records, items)  # written or not: writing them again does no harm
            raise
        except Exception as exc:  # noqa: BLE001  whatever ails the ledger must not end the tasks or this loop
            if self.error is None:
                log.warning("short tasks cannot be recorded, the ledger fails: %s", type(exc).__name__)
            self.error = type(exc).__name__
            self._keep(records, items)
            return False
        finally:
            self._under_way = 0
            self._written.set()
        if self.error is not None:
            log.warning("short tasks are recorded again")
            self.error = None
        return True

    def _keep(self, records: list[TaskRecord], items: list[TaskHandle[Any] | TaskRecord]) -> None:
        """Keep records that were not written, the latest of each task, as many as may wait."""
        kept = {record.id: record for record in records}
        for item in items:
            record = item if isinstance(item, TaskRecord) else item.snapshot(self.owner)
            kept[record.id] = record
        surplus = len(kept) - self._unwritten
        for id_ in list(kept)[: max(surplus, 0)]:
            del kept[id_]
            self.lost += 1
        self._backlog = kept

    def _write(self, records: list[TaskRecord], items: list[TaskHandle[Any] | TaskRecord]) -> list[str]:
        """In the thread: write, and ask who is to be cancelled."""
        now = self._clock.monotonic()
        if self._announced is None or now - self._announced >= _ANNOUNCE_SECONDS:
            facts = {"host": socket.gethostname(), "pid": os.getpid(), **mark()}
            self._ledger.announce(self.owner, "manager", ALIVE_SECONDS, info=facts)
            self._announced = now
        for start in range(0, len(records), _BATCH):
            self._ledger.write_short(records[start : start + _BATCH])
        for start in range(0, len(items), _BATCH):
            batch = items[start : start + _BATCH]
            self._ledger.write_short(
                [item if isinstance(item, TaskRecord) else item.snapshot(self.owner) for item in batch]
            )
        return self._ledger.cancel_requests(self.owner)

    def _leave(self) -> None:
        try:
            self._ledger.leave(self.owner)
        except Exception as exc:  # noqa: BLE001  the ledger notices by itself that this process is gone
            log.warning("could not sign off from the ledger: %s", type(exc).__name__)

    async def _in_thread(self, work: Callable[..., T], *args: Any) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *args)
