"""Several processes share a quota, die, stall, settle more, less or never, while clocks jump.

After every step the store says exactly what a simple model says, and no limit is passed except by what an upstream
really used beyond its reservation.
"""

from __future__ import annotations

import asyncio
import itertools
from collections import defaultdict
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, invariant, multiple, precondition, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine  # pyright: ignore[reportUnknownVariableType]
from tests.support.clock import ManualClock
from tests.support.quota import NOON, House, OpenStore, ask, sqlite_opener, used, valkey_opener
from tests.support.valkey import ValkeyProcess

from sparkle.errors import ConcurrencyLimitError, LimitError
from sparkle.llm.quota import LLMCostGuard, Reservation
from sparkle.llm.quota.limits import LimitBook
from sparkle.llm.quota.ops import Batch, Look, QuotaStore, Seen
from sparkle.llm.usage import Principal
from sparkle.settings import QuotaSettings, ScopeLimits

pytest_plugins = ["tests.support.quota_fixtures"]

T = TypeVar("T")

#: A rule that adds nothing to its bundle.
nothing = cast("Callable[[], Any]", multiple)

USER_LIMIT, TOTAL_LIMIT, CALLS_LIMIT = 1_000, 1_600, 3
ELASTIC_MOST, ELASTIC_LEAST = 300, 50
LEASE = 9.0
SETTINGS = QuotaSettings(
    tokens_per_day=USER_LIMIT,
    concurrency=CALLS_LIMIT,
    total=ScopeLimits(tokens_per_day=TOTAL_LIMIT),
    default_max_output_tokens=ELASTIC_MOST,
    min_output_tokens=ELASTIC_LEAST,
    lease_seconds=LEASE,
)
USERS = (Principal("alice"), Principal("bob"))
BOOK = LimitBook(SETTINGS)

Key = tuple[str, str]
"""A meter: ``(day or "calls", user or "everybody")``."""


@dataclass
class Meter:
    limit: int
    spent: int = 0
    reserved: int = 0
    excess: int = 0
    """What was spent beyond a reservation: the only thing that may pass the limit."""


@dataclass
class Call:
    reservation: Reservation
    worker: Worker
    keys: tuple[Key, ...]
    """Its two token meters."""
    calls: Key
    persisted: int = 0
    noted: int | None = None
    charged: int | None = None
    """Set when it was reaped."""
    ended: bool = False


@dataclass(eq=False)
class Worker:
    guard: LLMCostGuard
    lease_until: float | None
    beat_at: float | None
    alive: bool = True
    calls: list[Call] = field(default_factory=list[Call])


class Machine(RuleBasedStateMachine):
    """The real guards and their store on one side, the model on the other."""

    open_calls = Bundle("open_calls")

    def __init__(self, opener: OpenStore) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.clock = ManualClock(NOON)
        self.house = House(opener, SETTINGS, self.clock)
        self.watcher: QuotaStore = opener(self.clock)
        self.run(self.watcher.start())
        self.workers: list[Worker] = []
        self.meters: dict[Key, Meter] = defaultdict(lambda: Meter(0))
        for _ in range(2):
            self.hire()

    def run(self, work: Awaitable[T]) -> T:
        return self.loop.run_until_complete(cast("Any", work))

    def hire(self) -> None:
        async def born() -> LLMCostGuard:
            guard = await self.house.guard()
            await self.house.stall(guard)
            return guard

        guard = self.run(born())
        self.workers.append(Worker(guard, self.clock.wall + LEASE, self.clock.wall))

    def living(self, index: int) -> Worker:
        alive = [worker for worker in self.workers if worker.alive]
        return alive[index % len(alive)]

    def meter(self, key: Key) -> Meter:
        meter = self.meters[key]
        meter.limit = (
            CALLS_LIMIT if key[0] == "calls" else TOTAL_LIMIT if key[1] == "everybody" else USER_LIMIT
        )
        return meter

    # What may happen

    @rule(
        target=open_calls,
        index=st.integers(0, 9),
        user=st.sampled_from(USERS),
        prompt=st.integers(0, 400),
        answer=st.none() | st.integers(0, 500),
    )
    def reserve(self, index: int, user: Principal, prompt: int, answer: int | None) -> Any:
        worker = self.living(index)
        day = BOOK.calendar.day(self.clock.wall).label
        keys, calls = ((day, user.user), (day, "everybody")), ("calls", user.user)
        low, high = (ELASTIC_LEAST, ELASTIC_MOST) if answer is None else (answer, answer)
        room = min(m.limit - m.spent - m.reserved for m in (self.meter(key) for key in keys)) - prompt
        place = self.meter(calls).reserved < CALLS_LIMIT
        if worker.lease_until is None or worker.lease_until - self.clock.wall < LEASE * 2 / 3:
            worker.lease_until = self.clock.wall + LEASE
        reservation = None
        try:
            reservation = self.run(ask(worker.guard, user, prompt, answer))
        except LimitError as error:
            refused = error
        else:
            refused = None
        if reservation is None:
            # Tokens are checked before places.
            assert room < low or (not place and isinstance(refused, ConcurrencyLimitError))
            return nothing()
        assert place
        assert room >= low
        assert reservation.max_output_tokens == min(high, room)
        call = Call(reservation, worker, keys, calls)
        for key in keys:
            self.meter(key).reserved += reservation.tokens
        self.meter(calls).reserved += 1
        worker.calls.append(call)
        return call

    @rule(call=open_calls, share=st.floats(0, 2))
    def settle(self, call: Call, share: float) -> None:
        self.end(call, round(call.reservation.tokens * share))

    @rule(call=open_calls)
    def release(self, call: Call) -> None:
        self.end(call, None)

    def end(self, call: Call, actual: int | None) -> None:
        """Also for calls that ended before, whose process is dead, or that were reaped."""
        if not call.worker.alive:
            return
        guard, reservation = call.worker.guard, call.reservation
        if actual is None:
            self.run(guard.release(reservation))
        else:
            settlement = self.run(guard.settle(reservation, used(actual)))
            assert settlement.recorded == (not call.ended)
        self.run(guard.ready())
        if call.ended:
            return
        call.ended = True
        call.worker.calls.remove(call)
        spent = actual or 0
        for key in call.keys:
            meter = self.meter(key)
            if call.charged is None:
                meter.reserved -= reservation.tokens
                meter.spent += spent
                meter.excess += max(0, spent - reservation.tokens)
            else:
                late = max(0, spent - call.charged)
                meter.spent += late
                meter.excess += late
        if call.charged is None:
            self.meter(call.calls).reserved -= 1

    @rule(call=open_calls, share=st.floats(0, 1.2), persist=st.booleans())
    def progress(self, call: Call, share: float, persist: bool) -> None:
        if not call.worker.alive:
            return
        tokens = round(call.reservation.tokens * share)
        call.worker.guard.progress(call.reservation, used(tokens))
        if not call.ended:
            call.noted = tokens
        if persist:
            self.beat([w for w in self.workers if w.alive].index(call.worker))

    @rule(index=st.integers(0, 9))
    def beat(self, index: int) -> None:
        worker, now = self.living(index), self.clock.wall
        self.run(worker.guard.beat())
        before, worker.beat_at, worker.lease_until = worker.beat_at, now, now + LEASE
        for call in worker.calls:
            if call.noted is not None and call.charged is None:
                call.persisted, call.noted = call.noted, None
        if before is None or not LEASE / 6 <= now - before <= LEASE * 2 / 3:
            return
        for other in self.workers:
            if other is worker or other.lease_until is None:
                continue
            if other.lease_until <= now:
                self.reap(other)
            elif other.lease_until > now + 2 * LEASE:
                other.lease_until, other.beat_at = now + LEASE, now

    def reap(self, worker: Worker) -> None:
        worker.lease_until = worker.beat_at = None
        for call in worker.calls:
            if call.charged is None:
                call.charged = call.persisted
                for key in call.keys:
                    meter = self.meter(key)
                    meter.reserved -= call.reservation.tokens
                    meter.spent += call.charged
                    meter.excess += max(0, call.charged - call.reservation.tokens)
                self.meter(call.calls).reserved -= 1

    @precondition(lambda self: sum(worker.alive for worker in self.workers) > 1)
    @rule(index=st.integers(0, 9))
    def kill(self, index: int) -> None:
        worker = self.living(index)
        worker.alive = False
        self.run(self.house.kill(worker.guard))

    @precondition(lambda self: sum(worker.alive for worker in self.workers) < 4)
    @rule()
    def start_another(self) -> None:
        self.hire()

    @rule(index=st.integers(0, 9), user=st.sampled_from(USERS), steps=st.integers(0, 6))
    def cancel_at_an_await(self, index: int, user: Principal, steps: int) -> None:
        worker = self.living(index)

        async def cancelled() -> None:
            task = asyncio.ensure_future(ask(worker.guard, user, 10, None))
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            result = (await asyncio.gather(task, return_exceptions=True))[0]
            if isinstance(result, Reservation):
                await worker.guard.release(result)

        self.run(cancelled())
        # Whether the store was reached is open; a beat puts the lease into a known state.
        worker.beat_at = worker.beat_at if worker.lease_until is not None else None
        if worker.lease_until is None:
            self.run(worker.guard.beat())
            worker.lease_until, worker.beat_at = self.clock.wall + LEASE, self.clock.wall
        else:
            self.beat([w for w in self.workers if w.alive].index(worker))

    @rule(index=st.integers(0, 9), beats=st.integers(3, 5))
    def only_one_beats_for_a_while(self, index: int, beats: int) -> None:
        """Whoever else lives is stalled, and taken for dead."""
        for _ in range(beats):
            self.clock.wall += LEASE / 3
            self.beat(index)

    @rule(index=st.integers(0, 9), times=st.integers(1, 2))
    def everything_pauses(self, index: int, times: int) -> None:
        """A suspended machine; the first to wake up must not take the others for dead."""
        self.clock.wall += 600
        for _ in range(times):
            self.beat(index)

    @rule(seconds=st.sampled_from([1.0, 3.0, 3.0, 3.0, 6.0, 10.0, 43_200.0]))
    def time_passes(self, seconds: float) -> None:
        self.clock.wall += seconds

    @rule(seconds=st.sampled_from([1.0, 7_200.0]))
    def clock_is_set_back(self, seconds: float) -> None:
        self.clock.wall -= seconds

    # What must hold

    @invariant()
    def the_store_says_what_the_model_says(self) -> None:
        day = BOOK.calendar.day(self.clock.wall).label
        for user in USERS:
            plan = BOOK.plan(user, self.clock.wall)
            seen = self.run(self.watcher.apply(Batch("watcher", 9_000, (Look(plan.charges),))))[0]
            assert isinstance(seen, Seen)
            keys: list[Key] = [(day, user.user), (day, "everybody"), ("calls", user.user)]
            expected = [(meter.spent, meter.reserved) for meter in (self.meter(key) for key in keys)]
            assert [state[:2] for state in seen.states] == expected

    @invariant()
    def nothing_passes_a_limit_but_what_an_upstream_really_used(self) -> None:
        for meter in self.meters.values():
            assert meter.reserved >= 0
            assert meter.spent + meter.reserved <= meter.limit + meter.excess

    def teardown(self) -> None:
        for worker in self.workers:
            if worker.alive:
                self.run(self.house.kill(worker.guard))
        self.run(self.watcher.close())
        self.loop.close()


MACHINE = settings(
    max_examples=80,
    stateful_step_count=40,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)


def run_over(opener: Callable[[], OpenStore]) -> None:
    run_machine(cast("Any", lambda: Machine(opener())), settings=MACHINE)


def test_the_quota_holds_over_sqlite_whatever_happens(tmp_path: Path) -> None:
    numbers = itertools.count()
    run_over(lambda: sqlite_opener(tmp_path / f"{next(numbers)}.db"))


def test_the_quota_holds_over_valkey_whatever_happens(quota_valkey: ValkeyProcess) -> None:
    run_over(lambda: valkey_opener(quota_valkey.url))
