"""Group commit: everything that arrives while the store is occupied goes to it as one batch.

A call that comes alone goes at once. The more calls are running, the longer a batch is gathered (at most
:data:`GATHER_MOST` seconds after the last one), because then a transaction is shared by more of them and nobody's
processor time is spent on waiting. Settlements are kept until the store has them, whatever becomes of who made them.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Callable, Sequence

from sparkle.errors import StoreUnavailableError
from sparkle.llm.quota.ops import (
    AtOnceStore,
    Batch,
    Cancel,
    Granted,
    Op,
    OutcomeUnknownError,
    QuotaStore,
    Reserve,
    Result,
    StoreBusyError,
)

_log = logging.getLogger(__name__)

GATHER_PER_CALL = 25e-6
GATHER_MOST = 1e-3
RIDE_SECONDS = 2e-3
ANSWER_WAITS_MOST = 0.1
BUSY_LEAST, BUSY_MOST = 0.2e-3, 2e-3
BACKOFF_LEAST, BACKOFF_MOST = 0.05, 1.0
LARGEST_BATCH = 128

_Waiter = asyncio.Future[Result]
_Waiting = tuple[Op, _Waiter, float]
"""An operation that is given up at a moment (event loop time), and who waits for it."""
_Recorded = asyncio.Future[None]
_Post = tuple[Op, _Recorded | None]
"""An operation that is never given up, and who would like to know when it is recorded."""


class GroupCommit:
    """The one way from a guard to its store.

    Args:
        store: Where batches go.
        owner: Id of this process in the store.
        lease_ms: Length of its lease.
        calls: Tells how many calls are running now.
        patience: Seconds after which an operation that found no place is refused.
        most_waiting: Reservations that may wait; more are refused at once.
        jitter: Random number in [0, 1).
    """

    def __init__(
        self,
        store: QuotaStore,
        owner: str,
        lease_ms: int,
        *,
        calls: Callable[[], int],
        patience: float = 2.0,
        most_waiting: int = 10_000,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._store = store
        self._at_once = store.apply_at_once if isinstance(store, AtOnceStore) else None
        self._owner = owner
        self._lease_ms = lease_ms
        self._calls = calls
        self._patience = patience
        self._most_waiting = most_waiting
        self._jitter = jitter
        self._waiting: list[_Waiting] = []
        self._posts: list[_Post] = []
        self._urgent = False
        self._wake: asyncio.Future[None] | None = None
        self._ride: asyncio.TimerHandle | None = None
        self._idle = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._down = False
        self._last_end = 0.0

    def start(self) -> None:
        """Begin to serve; needs a running event loop."""
        self._loop = asyncio.get_running_loop()
        self._task = asyncio.create_task(self._serve(), name="quota-group-commit")
        self._task.add_done_callback(self._ended)

    @property
    def unrecorded(self) -> int:
        """Settlements that the store has not seen yet."""
        return len(self._posts)

    def submit(self, op: Op) -> _Waiter:
        """Queue an operation somebody waits for.

        Raises:
            StoreUnavailableError: At once, when the store is known to be down or too many wait; later through
                the future, when the store fails.
        """
        if self._task is None or self._down or len(self._waiting) >= self._most_waiting:
            raise StoreUnavailableError(retry_after=1.0)
        waiter: _Waiter = self._loop.create_future()
        if (result := self._alone(op)) is not None:
            waiter.set_result(result)
            return waiter
        self._waiting.append((op, waiter, self._loop.time() + self._patience))
        self._notify()
        return waiter

    def post(self, op: Op) -> None:
        """Queue an operation that must be recorded and that nobody waits for; it is kept until the store has it.

        It rides with the next batch, at the latest after :data:`RIDE_SECONDS`. There is at most one for each
        reservation, so their number is bounded by the calls admitted.

        Raises:
            StoreUnavailableError: After :meth:`close`: nobody would record it.
        """
        self._require_open()
        self._keep(op)

    def record(self, op: Op) -> _Recorded:
        """Like :meth:`post`, but at once; the future is done when the store has it.

        It is also done when the store cannot have it now (down, or busy for too long): the operation is kept and
        recorded later, and nobody should wait for that. Whoever stops waiting takes nothing back.
        """
        self._require_open()
        recorded: _Recorded = self._loop.create_future()
        if self._alone(op) is not None:
            recorded.set_result(None)
            return recorded
        self._posts.append((op, recorded))
        if self._down:
            recorded.set_result(None)
        else:
            self._urgent = True
            self._notify()
        return recorded

    async def flush(self, timeout: float) -> bool:
        """Wait until everything queued is recorded; False when ``timeout`` (s) came first."""
        self._notify()
        try:
            async with asyncio.timeout(timeout):
                while self._posts or self._waiting:
                    self._idle.clear()
                    await self._idle.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """Stop serving; whoever still waits is refused. Idempotent."""
        task, self._task = self._task, None
        if task is None:
            return
        task.cancel()
        await asyncio.wait([task])
        if self._ride is not None:
            self._ride.cancel()
        _refuse(self._waiting, StoreUnavailableError("The quota layer is closing.", retry_after=1.0))
        self._waiting = []

    def _alone(self, op: Op) -> Result | None:
        """Apply an operation here and now if nobody could share its transaction; None where it has to queue.

        Saves a lone call two rounds of the event loop for each transaction (decision 0030).
        """
        at_rest = self._wake is not None and not self._waiting and self._calls() <= 1
        if self._at_once is None or not at_rest or len(self._posts) >= LARGEST_BATCH:
            return None
        posts, self._posts = self._posts, []
        try:
            results = self._at_once(Batch(self._owner, self._lease_ms, (*(op for op, _ in posts), op)))
        except Exception:  # noqa: BLE001 - nothing was applied; the queue tries again and tells what is wrong
            self._posts = posts
            return None
        _tell(posts)
        self._urgent = False
        self._last_end = self._loop.time()
        return results[-1]

    def _require_open(self) -> None:
        if self._task is None:
            raise StoreUnavailableError("The quota layer is closed; this settlement cannot be recorded.")

    def _keep(self, op: Op) -> None:
        self._posts.append((op, None))
        if self._ride is None:
            self._ride = self._loop.call_later(RIDE_SECONDS, self._ride_on)

    def _notify(self) -> None:
        if self._wake is not None and not self._wake.done():
            self._wake.set_result(None)

    def _ride_on(self) -> None:
        self._ride = None
        self._urgent = True
        self._notify()

    async def _serve(self) -> None:
        backoff, busy_since = BACKOFF_LEAST, 0.0
        while True:
            if not (self._waiting or self._posts):
                self._idle.set()
            # While the store is down an empty batch asks whether it is back.
            if not (self._waiting or self._urgent or self._down):
                await self._woken()
            await self._gather()
            posts, waiting = self._cut()
            if not (posts or waiting or self._down):
                continue
            try:
                results = await self._apply(*(op for op, _ in posts), *(op for op, _, _ in waiting))
            except StoreBusyError:
                self._put_back(posts, waiting)
                busy_since = busy_since or self._loop.time()
                self._expire(busy_since)
                await asyncio.sleep(BUSY_LEAST + (BUSY_MOST - BUSY_LEAST) * self._jitter())
                continue
            except StoreUnavailableError as exc:
                self._put_back(posts, ())
                _tell(self._posts)
                self._fail(waiting, exc)
                await asyncio.sleep(backoff * (0.5 + self._jitter() / 2))
                backoff = min(BACKOFF_MOST, backoff * 2)
                continue
            except asyncio.CancelledError:
                self._put_back(posts, waiting)
                raise
            except Exception as exc:  # noqa: BLE001 - a defect in a store must refuse these calls, not stop all others
                _log.exception("quota store failed in an unforeseen way")
                self._fail(waiting, OutcomeUnknownError(details={"cause": type(exc).__name__}), down=False)
                await self._salvage(posts)
                continue
            if self._down:
                self._down, backoff = False, BACKOFF_LEAST
                _log.warning("quota store answers again")
            busy_since = 0.0
            _tell(posts)
            self._answer(waiting, results[len(posts) :])
            self._last_end = self._loop.time()
            if self._waiting or self._urgent:
                await asyncio.sleep(0)

    async def _apply(self, *ops: Op) -> list[Result]:
        return await self._store.apply(Batch(self._owner, self._lease_ms, ops))

    async def _woken(self) -> None:
        self._wake = self._loop.create_future()
        try:
            await self._wake
        finally:
            self._wake = None

    async def _gather(self) -> None:
        gap = min(GATHER_MOST, GATHER_PER_CALL * self._calls()) - (self._loop.time() - self._last_end)
        if gap > 0:
            await asyncio.sleep(gap)

    def _cut(self) -> tuple[list[_Post], list[_Waiting]]:
        posts, self._posts = self._posts[:LARGEST_BATCH], self._posts[LARGEST_BATCH:]
        self._urgent = bool(self._posts)
        cut, self._waiting = self._waiting[:LARGEST_BATCH], self._waiting[LARGEST_BATCH:]
        # Whoever gave up before the store saw the operation needs nothing undone.
        return posts, [item for item in cut if not item[1].done()]

    def _put_back(self, posts: Sequence[_Post], waiting: Sequence[_Waiting]) -> None:
        self._posts[:0] = posts
        self._urgent = bool(self._posts)
        self._waiting[:0] = waiting

    def _answer(self, waiting: Sequence[_Waiting], results: Sequence[Result]) -> None:
        for (op, waiter, _), result in zip(waiting, results, strict=True):
            if not waiter.done():
                waiter.set_result(result)
            elif isinstance(op, Reserve) and isinstance(result, Granted):
                # The caller went away while the store was granting.
                self._keep(Cancel(op.id))

    def _fail(self, waiting: Sequence[_Waiting], exc: StoreUnavailableError, *, down: bool = True) -> None:
        if isinstance(exc, OutcomeUnknownError):
            for op, _, _ in waiting:
                if isinstance(op, Reserve):
                    self._keep(Cancel(op.id))
        if down:
            if not self._down:
                _log.error(
                    "quota store does not answer (%s); calls are refused",
                    exc.details.get("cause", "no cause"),
                )
            self._down = True
            # Those that came meanwhile would only wait for the same refusal.
            waiting, self._waiting = (*waiting, *self._waiting), []
        _refuse(waiting, exc)

    def _expire(self, busy_since: float) -> None:
        now = self._loop.time()
        if now - busy_since > ANSWER_WAITS_MOST:
            _tell(self._posts)
        if self._waiting and self._waiting[0][2] <= now:
            late = [item for item in self._waiting if item[2] <= now]
            self._waiting = [item for item in self._waiting if item[2] > now]
            _refuse(late, StoreUnavailableError("The quota store is busy.", retry_after=1.0))

    async def _salvage(self, posts: Sequence[_Post]) -> None:
        """After an unforeseen failure: record one by one, so that a single bad operation takes no other with it."""
        _tell(posts)
        for op, _ in posts:
            try:
                await self._apply(op)
            except (StoreBusyError, StoreUnavailableError):
                self._keep(op)
            except Exception:  # noqa: BLE001 - one bad operation must not stop the others; it is reported
                _log.exception("a settlement could not be recorded: %s", getattr(op, "id", "?"))

    def _ended(self, task: asyncio.Task[None]) -> None:
        if task.cancelled() or (exc := task.exception()) is None:
            return
        _log.critical("quota group commit stopped; calls are refused", exc_info=exc)
        self._task = None
        _refuse(self._waiting, StoreUnavailableError(retry_after=1.0))
        self._waiting = []


def _tell(posts: Sequence[_Post]) -> None:
    for _, recorded in posts:
        if recorded is not None and not recorded.done():
            recorded.set_result(None)


def _refuse(waiting: Sequence[_Waiting], exc: StoreUnavailableError) -> None:
    for _, waiter, _ in waiting:
        if not waiter.done():
            # One exception object for each: a traceback belongs to one raise.
            waiter.set_exception(StoreUnavailableError(exc.message, retry_after=1.0, details=exc.details))
