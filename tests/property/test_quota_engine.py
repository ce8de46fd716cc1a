"""One arithmetic, three homes: the engine over dictionaries, over SQLite, and the Lua script agree on everything."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.clock import ManualClock
from tests.support.quota import NOON, DictLedger
from tests.support.valkey import ValkeyProcess

from sparkle.llm.quota.engine import Meter
from sparkle.llm.quota.ops import (
    CALLS,
    MAX_AMOUNT,
    MONEY,
    RATE,
    RATE_WINDOW_MS,
    TOKENS,
    Batch,
    Beat,
    Cancel,
    Charge,
    Entry,
    Granted,
    Leave,
    Look,
    Op,
    Refused,
    Reserve,
    Result,
    Settle,
)
from sparkle.llm.quota.sqlite_store import SqliteStore
from sparkle.llm.quota.valkey_store import ValkeyStore

pytest_plugins = ["tests.support.quota_fixtures"]

START_MS = int(NOON * 1000)
TOMORROW = START_MS + 2 * 86_400_000
LEASE_MS = 9_000
OWNERS = ("a", "b")
CHARGES = (
    Charge("money", MONEY, MAX_AMOUNT, TOMORROW),
    Charge("tokens", TOKENS, 1_000, TOMORROW),
    Charge("few", TOKENS, 60, TOMORROW),
    Charge("rate", RATE, 2, 0),
    Charge("calls", CALLS, 3, 0),
)

amount = st.integers(0, 40) | st.integers(0, 40) | st.sampled_from([0, 1, 999, 1_000, 1_001, 2**31])
charges = st.lists(st.sampled_from(CHARGES), unique=True, max_size=5).map(
    lambda picked: tuple(sorted(picked, key=CHARGES.index))
)


Make = Callable[["Script", str], Op]
"""Makes an operation when its turn comes, for an owner, from the reservations made so far."""


def plan_reserve(
    picked: tuple[Charge, ...], base: int, unit: int, price: int, bounds: tuple[int, int]
) -> Make:
    amounts = ((base, unit), (base * price, unit * price), (1, 0))
    return lambda script, owner: script.reserve(owner, picked, amounts, min(bounds), max(bounds))


def plan_settle(index: int, actual: int) -> Make:
    def make(script: Script, owner: str) -> Op:
        reservation, charged = script.pick(index)
        entries = (Entry(c.key, 40, actual if c.measure != CALLS else 0, c.expires) for c in charged)
        return Settle(reservation, tuple(entries))

    return make


def plan_beat(lines: list[tuple[int, int]]) -> Make:
    def make(script: Script, owner: str) -> Op:
        progress: dict[str, tuple[int, ...]] = {}
        for index, spent in lines:
            reservation, charged = script.pick(index)
            progress[reservation] = (spent,) * len(charged)
        return Beat(tuple(progress.items()))

    return make


def plan_cancel(index: int) -> Make:
    return lambda script, owner: Cancel(script.pick(index)[0])


def look(script: Script, owner: str) -> Op:
    return Look(CHARGES)


def leave(script: Script, owner: str) -> Op:
    return Leave()


class Script:
    """Remembers which reservations were asked for, the latest first."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._asked: list[Reserve] = []

    def reserve(
        self,
        owner: str,
        picked: tuple[Charge, ...],
        amounts: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
        lo: int,
        hi: int,
    ) -> Reserve:
        op = Reserve(f"{owner}-{next(self._numbers):x}", picked, amounts, lo, hi)
        self._asked.insert(0, op)
        return op

    def pick(self, index: int) -> tuple[str, list[Charge]]:
        """A reservation's id and the charges that it holds something on; one nobody made, beyond the last."""
        if index >= len(self._asked):
            return f"x-{index:x}", []
        op = self._asked[index]
        return op.id, [charge for charge in op.charges if charge.measure != RATE]


@dataclass(frozen=True)
class Planned:
    """A batch to come, ``later_ms`` after the one before (negative: the clock is set back)."""

    owner: str
    later_ms: int
    makers: tuple[Make, ...]

    def batch(self, script: Script) -> Batch:
        return Batch(self.owner, LEASE_MS, tuple(make(script, self.owner) for make in self.makers))


pick = st.integers(0, 8)
bounds = st.tuples(st.integers(0, 90), st.integers(0, 90))
planned_op: st.SearchStrategy[Make] = st.one_of(
    st.builds(plan_reserve, charges, amount, st.integers(0, 4), st.sampled_from([0, 2_500, 10**9]), bounds),
    st.builds(plan_settle, pick, amount),
    st.builds(plan_cancel, pick),
    st.builds(plan_beat, st.lists(st.tuples(pick, amount), max_size=3)),
    st.just(look),
    st.just(leave),
)
planned_batch = st.builds(
    Planned,
    st.sampled_from(OWNERS),
    st.integers(0, 4_000) | st.sampled_from([0, 1, 3_000, 9_000, 59_999, 60_000, -7_200_000]),
    st.lists(planned_op, min_size=1, max_size=5).map(tuple),
)


def only_one_beats(owner: str, beats: int) -> list[Planned]:
    """Whoever else lives is taken for dead."""
    return [Planned(owner, LEASE_MS // 3, (plan_beat([]),))] * beats


plans = st.lists(
    planned_batch.map(lambda batch: [batch])
    | st.builds(only_one_beats, st.sampled_from(OWNERS), st.integers(1, 5)),
    min_size=1,
    max_size=20,
).map(lambda parts: [batch for part in parts for batch in part])
LAST_LOOK = Planned("a", 0, (look,))


_prefixes = itertools.count()


@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans)
def test_dictionaries_sqlite_and_lua_give_the_same_answers(
    plan: list[Planned], tmp_path: Path, quota_valkey: ValkeyProcess
) -> None:
    async def run() -> None:
        clock, ledger, script = ManualClock(NOON), DictLedger(), Script()
        name = f"{next(_prefixes)}"
        sqlite = SqliteStore(tmp_path / f"{name}.db", clock=clock)
        valkey = ValkeyStore(quota_valkey.url, clock=clock, prefix=f"{{diff:{name}}}", server_time=False)
        await sqlite.start()
        await valkey.start()
        try:
            for planned in [*plan, LAST_LOOK]:
                clock.wall += planned.later_ms / 1000
                batch = planned.batch(script)
                expected = ledger.apply(batch, int(clock.now() * 1000))
                assert await valkey.apply(batch) == expected
                assert await sqlite.apply(batch) == expected
        finally:
            await sqlite.close()
            await valkey.close()

    asyncio.run(run())


@settings(max_examples=150)
@given(
    limit=st.integers(1, 6),
    gaps=st.lists(st.integers(0, 30_000) | st.sampled_from([0, 1, 999, 1_000, 59_999, 60_000]), max_size=60),
)
def test_no_sixty_seconds_admit_more_than_the_limit_and_retry_after_is_exact(
    limit: int, gaps: list[int]
) -> None:
    ledger, now = DictLedger(), START_MS
    charge = Charge("rate", RATE, limit, 0)
    admitted: list[int] = []
    for number, gap in enumerate(gaps):
        now += gap

        def ask(at: int, name: str) -> Result:
            op = Reserve(name, (charge,), ((0, 0), (0, 0), (1, 0)), 0, 0)
            return ledger.apply(Batch("a", LEASE_MS, (op,)), at)[0]

        result = ask(now, f"a-{number}")
        if isinstance(result, Refused):
            assert now < result.retry_ms <= now + RATE_WINDOW_MS
            assert isinstance(ask(result.retry_ms - 1, f"b-{number}"), Refused)
            now = result.retry_ms
            result = ask(now, f"c-{number}")
        assert isinstance(result, Granted)
        admitted.append(now)
        recent = [moment for moment in admitted if now - RATE_WINDOW_MS < moment]
        assert len(recent) <= limit
        # Nobody is refused a place that is free: requests within a second share one, so at most a second is lost.
        assert len(ledger.meters["rate"].log) <= 62


@settings(max_examples=150)
@given(
    free=st.integers(0, MAX_AMOUNT),
    base=st.integers(0, 2**40),
    unit=st.integers(0, 2**40),
    lo=st.integers(0, 40_000),
    more=st.integers(0, 40_000),
)
def test_an_elastic_answer_is_the_largest_that_fits(
    free: int, base: int, unit: int, lo: int, more: int
) -> None:
    ledger = DictLedger()
    ledger.meters["money"] = Meter(spent=MAX_AMOUNT - free)
    op = Reserve("a-1", (CHARGES[0],), ((0, 0), (base, unit), (1, 0)), lo, lo + more)
    result = ledger.apply(Batch("a", LEASE_MS, (op,)), START_MS)[0]
    if isinstance(result, Granted):
        assert lo <= result.answer <= lo + more
        assert base + unit * result.answer <= free
        assert result.answer == lo + more or base + unit * (result.answer + 1) > free
    else:
        assert base + unit * lo > free
