"""One arithmetic, three homes: the engine over dictionaries, over SQLite, and the Lua script agree on everything."""

from __future__ import annotations

import asyncio
import itertools
import random
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
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
    Done,
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

#: Mostly small, so that several fit; sometimes at an edge.
amount = st.sampled_from([0, 1, 1, 2, 2, 3, 5, 8, 13, 21, 60, 61, 999, 1_000, 1_001, 2**31])
charges = st.tuples(*(st.booleans() for _ in CHARGES)).map(
    lambda chosen: tuple(charge for charge, wanted in zip(CHARGES, chosen, strict=True) if wanted)
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
    """Remembers which reservations were granted, the latest first."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._granted: list[Reserve] = []

    def reserve(
        self,
        owner: str,
        picked: tuple[Charge, ...],
        amounts: tuple[tuple[int, int], tuple[int, int], tuple[int, int]],
        lo: int,
        hi: int,
    ) -> Reserve:
        return Reserve(f"{owner}-{next(self._numbers):x}", picked, amounts, lo, hi)

    def note(self, batch: Batch, results: list[Result]) -> None:
        """What became of a batch."""
        for op, result in zip(batch.ops, results, strict=True):
            if isinstance(op, Reserve) and isinstance(result, Granted):
                self._granted.insert(0, op)

    def pick(self, index: int) -> tuple[str, list[Charge]]:
        """A reservation's id and the charges that it holds something on; one nobody made, beyond the last."""
        if index >= len(self._granted):
            return f"x-{index:x}", []
        op = self._granted[index]
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
bounds = st.tuples(st.integers(0, 20), st.integers(0, 20))
planned_reserve = st.builds(
    plan_reserve, charges, amount, st.integers(0, 2), st.sampled_from([0, 2_500, 10**9]), bounds
)
planned_settle = st.builds(plan_settle, pick, amount)
planned_op: st.SearchStrategy[Make] = st.one_of(
    *(planned_reserve, planned_reserve, planned_reserve, planned_reserve),
    *(planned_settle, planned_settle),
    st.builds(plan_cancel, pick),
    st.builds(plan_beat, st.lists(st.tuples(pick, amount), min_size=1, max_size=3)),
    st.just(look),
    st.just(leave),
)
planned_batch = st.builds(
    Planned,
    st.sampled_from(OWNERS),
    st.sampled_from([0, 1, 500, 999, 1_000, 3_000, 3_000, 3_000, 9_000, 57_000, 59_999, 60_000, -7_200_000]),
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


def walk(chance: random.Random, steps: int) -> list[Planned]:
    """A long plan, denser than hypothesis draws one: many reservations are alive at any time."""
    small, edges = (0, 1, 1, 2, 3, 5, 8, 13), (21, 60, 61, 999, 1_000, 1_001, 2**31)

    def tokens() -> int:
        return chance.choice(edges if chance.random() < 0.1 else small)

    def one() -> Make:
        match chance.choices("rsckvl", (10, 8, 2, 2, 1, 0.3))[0]:
            case "r":
                picked = tuple(charge for charge in CHARGES if chance.random() < 0.4)
                limits = (chance.randrange(20), chance.randrange(20))
                return plan_reserve(
                    picked, tokens(), chance.randrange(3), chance.choice((0, 2_500, 10**9)), limits
                )
            case "s":
                return plan_settle(chance.randrange(9), tokens())
            case "c":
                return plan_cancel(chance.randrange(9))
            case "k":
                return plan_beat([(chance.randrange(9), tokens()) for _ in range(2)])
            case "v":
                return look
            case _:
                return leave

    plan: list[Planned] = []
    while len(plan) < steps:
        owner = chance.choice(OWNERS)
        if chance.random() < 0.1:
            plan += only_one_beats(owner, chance.randrange(1, 6))
        later = chance.choice((0, 0, 1, 500, 999, 1_000, 3_000, 3_000, 20_000, 57_000, 60_000))
        if chance.random() < 0.02:
            later = -7_200_000
        plan.append(Planned(owner, later, tuple(one() for _ in range(chance.randrange(1, 6)))))
    return plan


_prefixes = itertools.count()


async def play(plan: list[Planned], folder: Path, server: ValkeyProcess) -> Counter[str]:
    """Give a plan to all three and compare every answer; returns how often which answer came."""
    clock, ledger, script = ManualClock(NOON), DictLedger(), Script()
    name = f"{next(_prefixes)}"
    sqlite = SqliteStore(folder / f"{name}.db", clock=clock)
    valkey = ValkeyStore(server.url, clock=clock, prefix=f"{{diff:{name}}}", server_time=False)
    await sqlite.start()
    await valkey.start()
    answers: Counter[str] = Counter()
    try:
        for planned in [*plan, LAST_LOOK]:
            clock.wall += planned.later_ms / 1000
            batch = planned.batch(script)
            expected = ledger.apply(batch, int(clock.now() * 1000))
            script.note(batch, expected)
            assert await valkey.apply(batch) == expected
            assert await sqlite.apply(batch) == expected
            answers.update(map(_kind, batch.ops, expected))
    finally:
        await sqlite.close()
        await valkey.close()
    return answers


def _kind(op: Op, result: Result) -> str:
    if isinstance(op, Reserve) and isinstance(result, Refused):
        return f"refused by {op.charges[result.index].key}"
    return (
        f"{type(op).__name__} {min(result.count, 2) if isinstance(result, Done) else type(result).__name__}"
    )


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(plan=plans)
def test_dictionaries_sqlite_and_lua_give_the_same_answers(
    plan: list[Planned], tmp_path: Path, quota_valkey: ValkeyProcess
) -> None:
    asyncio.run(play(plan, tmp_path, quota_valkey))


@pytest.mark.parametrize("seed", range(4))
async def test_dictionaries_sqlite_and_lua_agree_on_a_long_walk(
    seed: int, tmp_path: Path, quota_valkey: ValkeyProcess
) -> None:
    answers = await play(walk(random.Random(seed), 400), tmp_path, quota_valkey)
    # The walk went everywhere: live, late and unknown settlements, cancellations, reaped owners, every kind of refusal.
    assert {*answers} >= {
        "Settle 0",
        "Settle 1",
        "Settle 2",
        "Cancel 0",
        "Cancel 1",
        "Beat 0",
        "Beat 2",
        "Leave 1",
    }
    assert {*answers} >= {f"refused by {charge.key}" for charge in CHARGES}


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
