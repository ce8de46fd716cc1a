"""Group commit: one batch for all who come together; nothing recorded is lost, nobody waits for ever."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator

import pytest
from tests.support.clock import ManualClock
from tests.support.quota import ALICE, NOON, PRICES, ScriptedStore, abandon, amounts, ask, used

from sparkle.errors import QuotaExceededError, RateLimitError, StoreUnavailableError
from sparkle.llm.quota import LLMCostGuard, commit
from sparkle.llm.quota.ops import Cancel, OutcomeUnknownError, Reserve, Settle, StoreBusyError
from sparkle.settings import QuotaSettings

SETTINGS = QuotaSettings(tokens_per_day=1_000)


@pytest.fixture
def store() -> ScriptedStore:
    return ScriptedStore(ManualClock(NOON))


@pytest.fixture
async def guard(store: ScriptedStore) -> AsyncIterator[LLMCostGuard]:
    guard = LLMCostGuard(SETTINGS, store, PRICES, clock=ManualClock(NOON), new_id=lambda: "me")
    await guard.start()
    store.batches.clear()
    yield guard
    await abandon(guard)


async def test_calls_that_come_together_share_one_transaction(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    reservations = await asyncio.gather(*(ask(guard, tokens=10) for _ in range(50)))
    assert [len(batch.ops) for batch in store.batches] == [50]
    await asyncio.gather(
        *(guard.settle(reservation, used(10)) for reservation in reservations), ask(guard, tokens=10)
    )
    assert [len(batch.ops) for batch in store.batches] == [50, 51]


async def test_a_settlement_is_recorded_before_the_reservation_that_comes_with_it(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    full = await ask(guard, tokens=1_000)
    await asyncio.gather(ask(guard, tokens=600), guard.settle(full, used(400)))
    assert [type(op) for op in store.batches[-1].ops] == [Settle, Reserve]


async def test_a_settlement_is_in_the_store_before_the_answer_leaves(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    reservation = await ask(guard)
    store.gate.clear()
    settling = asyncio.ensure_future(guard.settle(reservation, used(7)))
    for _ in range(5):
        await asyncio.sleep(0)
    assert not settling.done()
    store.gate.set()
    assert (await settling).recorded
    assert next(iter(store.ledger.meters.values())).spent == 7


async def test_who_stops_waiting_for_a_settlement_takes_nothing_back(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    reservation = await ask(guard)
    settling = asyncio.ensure_future(guard.settle(reservation, used(7)))
    await asyncio.sleep(0)
    settling.cancel()
    with pytest.raises(asyncio.CancelledError):
        await settling
    assert await amounts(guard) == {"tokens_per_day/user": (7, 0)}


async def test_a_release_is_recorded_soon_even_if_nobody_else_comes(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    await guard.release(await ask(guard))
    await store.tried()
    assert not store.ledger.live


async def test_a_store_that_stays_busy_does_not_hold_up_an_answer(
    store: ScriptedStore, guard: LLMCostGuard, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(commit, "ANSWER_WAITS_MOST", 0.0)
    reservation = await ask(guard)
    for _ in range(3):
        store.fail_next(StoreBusyError())
    await guard.settle(reservation, used(7))
    assert store.faults
    assert await amounts(guard) == {"tokens_per_day/user": (7, 0)}


async def test_a_busy_store_is_tried_again_while_others_join(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    for _ in range(3):
        store.fail_next(StoreBusyError())
    first = asyncio.ensure_future(ask(guard, tokens=10))
    await store.tried()
    assert len(store.faults) == 2
    second = asyncio.ensure_future(ask(guard, tokens=10))
    await asyncio.gather(first, second)
    assert [len(batch.ops) for batch in store.batches] == [2]


async def test_a_store_that_stays_busy_refuses_after_a_while(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    inside = guard._commit  # pyright: ignore[reportPrivateUsage]
    inside._patience = 0.0  # pyright: ignore[reportPrivateUsage]
    store.fail_next(StoreBusyError())
    with pytest.raises(StoreUnavailableError, match="busy"):
        await ask(guard)
    inside._patience = 2.0  # pyright: ignore[reportPrivateUsage]
    await ask(guard)


async def test_a_store_that_is_down_refuses_at_once_and_is_back_by_itself(
    store: ScriptedStore, guard: LLMCostGuard, caplog: pytest.LogCaptureFixture
) -> None:
    store.down = True
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            with pytest.raises(StoreUnavailableError):
                await ask(guard)
        store.down = False
        await store.tried()
        await ask(guard)
    assert [record.message for record in caplog.records] == [
        "quota store does not answer (down); calls are refused",
        "quota store answers again",
    ]


async def test_settlements_made_while_the_store_is_down_are_recorded_when_it_is_back(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    reservations = [await ask(guard, tokens=100) for _ in range(5)]
    store.down = True
    # The first finds out that the store is down, the others know; none of them waits for it to come back.
    for reservation in reservations:
        assert (await guard.settle(reservation, used(60))).recorded
    with pytest.raises(StoreUnavailableError):
        await ask(guard)
    store.down = False
    assert await guard._commit.flush(5)  # pyright: ignore[reportPrivateUsage]
    assert next(iter(store.ledger.meters.values())).spent == 300
    assert not store.ledger.live


async def test_a_reservation_whose_answer_was_lost_does_not_stay(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    store.fail_next(OutcomeUnknownError(), after=True)
    with pytest.raises(StoreUnavailableError):
        await ask(guard, tokens=900)
    assert await guard._commit.flush(5)  # pyright: ignore[reportPrivateUsage]
    assert await amounts(guard) == {"tokens_per_day/user": (0, 0)}
    assert not store.ledger.live


async def test_a_reservation_that_arrives_after_it_was_given_up_is_refused(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    store.fail_next(OutcomeUnknownError())
    with pytest.raises(StoreUnavailableError):
        await ask(guard, tokens=900)
    assert await guard._commit.flush(5)  # pyright: ignore[reportPrivateUsage]
    cancelled = [op.id for batch in store.batches for op in batch.ops if isinstance(op, Cancel)]
    assert cancelled == list(store.ledger.late)


async def test_a_settlement_whose_answer_was_lost_counts_once(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    reservation = await ask(guard)
    store.fail_next(OutcomeUnknownError(), after=True)
    await guard.settle(reservation, used(70))
    assert guard._commit.unrecorded == 1  # pyright: ignore[reportPrivateUsage]
    assert await guard._commit.flush(5)  # pyright: ignore[reportPrivateUsage]
    assert await amounts(guard) == {"tokens_per_day/user": (70, 0)}


async def test_a_defect_in_the_store_refuses_those_it_met_and_no_other(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    reservation = await ask(guard, tokens=100)
    store.fail_next(ZeroDivisionError())
    refused, _ = await asyncio.gather(ask(guard), guard.settle(reservation, used(50)), return_exceptions=True)
    assert isinstance(refused, StoreUnavailableError)
    assert await amounts(guard) == {"tokens_per_day/user": (50, 0)}


async def test_a_caller_that_leaves_while_the_store_decides_holds_nothing(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    store.gate.clear()
    caller = asyncio.ensure_future(ask(guard, tokens=900))
    for _ in range(5):
        await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    store.gate.set()
    assert await guard._commit.flush(5)  # pyright: ignore[reportPrivateUsage]
    assert await amounts(guard) == {"tokens_per_day/user": (0, 0)}


async def test_a_caller_that_left_before_the_store_was_asked_never_reaches_it(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    caller = asyncio.ensure_future(ask(guard))
    await asyncio.sleep(0)
    caller.cancel()
    with pytest.raises(asyncio.CancelledError):
        await caller
    await guard.ready()
    assert not any(isinstance(op, Reserve) for batch in store.batches for op in batch.ops)


async def test_too_many_waiting_are_refused_at_once(store: ScriptedStore, guard: LLMCostGuard) -> None:
    inside = guard._commit  # pyright: ignore[reportPrivateUsage]
    inside._most_waiting = 2  # pyright: ignore[reportPrivateUsage]
    store.gate.clear()
    waiting = [asyncio.ensure_future(ask(guard, tokens=1)) for _ in range(6)]
    await asyncio.sleep(0)
    refused = [task for task in waiting if task.done()]
    assert len(refused) == 4
    store.gate.set()
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert sum(isinstance(result, StoreUnavailableError) for result in results) == 4


async def test_progress_that_could_not_be_persisted_is_kept_for_the_next_beat(
    store: ScriptedStore, guard: LLMCostGuard
) -> None:
    reservation = await ask(guard)
    guard.progress(reservation, used(30))
    store.down = True
    with pytest.raises(StoreUnavailableError):
        await guard.beat()
    store.down = False
    await store.tried()
    await guard.beat()
    assert store.ledger.live[reservation.id][2] == (30,)


async def test_whoever_waits_at_closing_is_refused(store: ScriptedStore, guard: LLMCostGuard) -> None:
    reservation = await ask(guard)
    store.gate.clear()
    waiting = asyncio.ensure_future(ask(guard))
    await asyncio.sleep(0)
    await guard.close(timeout=0.01)
    with pytest.raises(StoreUnavailableError, match="closing"):
        await waiting
    with pytest.raises(StoreUnavailableError, match="closed"):
        await guard.settle(reservation, used(1))
    with pytest.raises(StoreUnavailableError):
        await ask(guard)


async def test_a_guard_that_was_not_started_refuses(store: ScriptedStore) -> None:
    guard = LLMCostGuard(SETTINGS, store, PRICES, clock=ManualClock(NOON))
    with pytest.raises(StoreUnavailableError):
        await guard.reserve(ALICE, model="m", prompt_tokens=1, max_output_tokens=1)
    await guard.close()


async def test_refusals_are_not_failures(store: ScriptedStore, guard: LLMCostGuard) -> None:
    await guard.settle(await ask(guard, tokens=1_000), used(1_000))
    for _ in range(3):
        with pytest.raises(QuotaExceededError):
            await ask(guard, tokens=1)
    assert not isinstance(RateLimitError(), QuotaExceededError)
    await guard.ready()
