"""The embedded store: never blocks the event loop, fails closed, keeps its file small."""

from __future__ import annotations

import asyncio
import contextlib
import sqlite3
from collections.abc import Generator
from pathlib import Path

import pytest
from tests.support.clock import ManualClock
from tests.support.quota import NOON, House, amounts, ask, sqlite_opener, used

from sparkle.errors import StoreUnavailableError
from sparkle.llm.quota import sqlite_store
from sparkle.llm.quota.ops import (
    RATE,
    TOKENS,
    Batch,
    Cancel,
    Charge,
    Done,
    Entry,
    Granted,
    Look,
    Op,
    Reserve,
    Result,
    Seen,
    Settle,
    StoreBusyError,
)
from sparkle.llm.quota.sqlite_store import SqliteStore
from sparkle.settings import QuotaSettings

DAY_MS = 86_400_000
TODAY = Charge("today", TOKENS, 1_000, int(NOON * 1000) + DAY_MS)
RATED = Charge("rated", RATE, 5, 0)


def reserve(name: str, tokens: int = 10, *charges: Charge) -> Reserve:
    return Reserve(f"me-{name}", charges or (TODAY,), ((tokens, 0), (0, 0), (1, 0)), 0, 0)


async def apply(store: SqliteStore, *ops: Op) -> list[Result]:
    return await store.apply(Batch("me", 9_000, ops))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "quota.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@contextlib.contextmanager
def locked(path: Path) -> Generator[None]:
    """Another process is writing."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        yield
        other.execute("ROLLBACK")


async def opened(path: Path, clock: ManualClock) -> SqliteStore:
    store = SqliteStore(path, clock=clock)
    await store.start()
    return store


async def test_a_file_that_another_process_writes_is_busy_at_once_and_nothing_is_applied(
    path: Path, clock: ManualClock
) -> None:
    store = await opened(path, clock)
    with locked(path), pytest.raises(StoreBusyError):
        await apply(store, reserve("1"))
    assert await apply(store, Look((TODAY,))) == [Seen(((0, 0, 0),))]
    await store.close()


async def test_a_call_waits_for_another_process_without_holding_up_the_loop(path: Path) -> None:
    house = House(sqlite_opener(path), QuotaSettings(tokens_per_day=100))
    guard = await house.guard()
    with locked(path):
        inside = guard._commit  # pyright: ignore[reportPrivateUsage]
        inside._patience = 0.02  # pyright: ignore[reportPrivateUsage]
        with pytest.raises(StoreUnavailableError, match="busy"):
            await ask(guard, tokens=10)
        inside._patience = 60.0  # pyright: ignore[reportPrivateUsage]
    await guard.settle(await ask(guard, tokens=10), used(7))
    assert await amounts(guard) == {"tokens_per_day/user": (7, 0)}
    await house.close()


async def test_a_lone_call_is_served_without_a_round_of_the_event_loop_unless_another_process_writes(
    path: Path,
) -> None:
    house = House(sqlite_opener(path), QuotaSettings(tokens_per_day=100))
    guard = await house.guard()
    inside = guard._commit  # pyright: ignore[reportPrivateUsage]
    await asyncio.sleep(0)  # the group commit goes to rest
    inside.post(Settle("me-unknown", (Entry("today", 0, 5, TODAY.expires),)))
    first = inside.submit(reserve("1"))
    assert first.done()
    assert isinstance(first.result(), Granted)
    assert inside.unrecorded == 0, "what nobody waits for rides along"
    assert inside.record(Settle("me-1", (Entry("today", 10, 7, TODAY.expires),))).done()
    with locked(path):
        second = inside.submit(reserve("2"))
        assert not second.done()
    assert await second == Granted(0, ((7, 10, 0),))
    await house.close()


async def test_a_full_disk_refuses_the_whole_batch_and_the_next_one_finds_the_store_as_it_was(
    path: Path, clock: ManualClock
) -> None:
    store = await opened(path, clock)
    await apply(store, reserve("first"))
    conn = store._conn  # pyright: ignore[reportPrivateUsage]
    assert conn is not None
    (pages,) = conn.execute("PRAGMA page_count").fetchone()
    conn.execute(f"PRAGMA max_page_count={pages}")
    many = (Charge(f"{'meter' * 40}-{i}", TOKENS, 1_000, TODAY.expires) for i in range(200))
    with pytest.raises(StoreUnavailableError) as refused:
        await apply(store, reserve("big", 10, TODAY, *many))
    assert refused.value.details == {"cause": "OperationalError"}
    assert await apply(store, Look((TODAY,))) == [Seen(((0, 10, 0),))]
    await store.close()


async def test_a_connection_that_broke_is_opened_again(path: Path, clock: ManualClock) -> None:
    store = await opened(path, clock)
    conn = store._conn  # pyright: ignore[reportPrivateUsage]
    assert conn is not None
    conn.close()
    with pytest.raises(StoreUnavailableError):
        await apply(store, reserve("1"))
    assert isinstance((await apply(store, reserve("2")))[0], Granted)
    await store.close()


def damage(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"this is no database" * 1_000)


async def test_a_damaged_file_refuses_the_start(path: Path, clock: ManualClock) -> None:
    damage(path)
    with pytest.raises(StoreUnavailableError):
        await SqliteStore(path, clock=clock).start()


async def test_a_folder_that_cannot_be_made_refuses_the_start(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreUnavailableError):
        await SqliteStore(tmp_path / "file" / "quota.db", clock=clock).start()


async def test_a_file_of_a_later_release_is_left_alone(path: Path, clock: ManualClock) -> None:
    await (await opened(path, clock)).close()
    with contextlib.closing(sqlite3.connect(path)) as conn:
        conn.execute("PRAGMA user_version=99")
    with pytest.raises(StoreUnavailableError, match="schema version 99"):
        await SqliteStore(path, clock=clock).start()


async def test_what_was_reserved_and_settled_is_there_after_a_restart(path: Path, clock: ManualClock) -> None:
    store = await opened(path, clock)
    await apply(store, reserve("1", 100), reserve("2", 50), reserve("3", 5, RATED))
    await apply(store, Settle("me-1", (Entry("today", 100, 60, TODAY.expires),)))
    await store.close()
    again = await opened(path, clock)
    assert await apply(again, Look((TODAY, RATED))) == [
        Seen(((60, 50, 0), (1, 0, int(clock.now() * 1000) + 60_000)))
    ]
    assert await apply(again, Cancel("me-2"), Cancel("me-1")) == [Done(1), Done(0)]
    await again.close()


async def test_old_windows_are_forgotten_and_those_in_use_are_not(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_PRUNE_ROWS", 7)
    store = await opened(path, clock)
    held = Charge("held", TOKENS, 1_000, TODAY.expires)
    await apply(store, reserve("held", 10, held))
    for number in range(30):
        spent = Charge(f"spent-{number}", TOKENS, 1_000, TODAY.expires)
        await apply(store, reserve(f"{number}", 10, spent))
        await apply(store, Settle(f"me-{number}", (Entry(spent.key, 10, 10, TODAY.expires),)))
    clock.advance(3 * 86_400)
    await apply(store, reserve("new", 10, Charge("new", TOKENS, 1_000, int(clock.now() * 1000) + DAY_MS)))
    await store.maintain()
    await store.close()
    with contextlib.closing(sqlite3.connect(path)) as conn:
        assert conn.execute("SELECT key FROM meter ORDER BY key").fetchall() == [("held",), ("new",)]


async def test_a_long_log_is_made_to_start_from_the_beginning(
    path: Path, clock: ManualClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite_store, "_RESET_PAGES", 20)
    store = await opened(path, clock)
    log = path.with_name("quota.db-wal")
    for turn in range(5):
        for number in range(40):
            await apply(store, reserve(f"{turn}-{number}", 0))
        await store.maintain()
        await store._maintenance  # pyright: ignore[reportPrivateUsage, reportGeneralTypeIssues]
        if turn == 0:
            size = log.stat().st_size
    assert log.stat().st_size < 2 * size  # pyright: ignore[reportPossiblyUnboundVariable]
    await store.close()


async def test_housekeeping_that_fails_does_not_disturb_calls(path: Path, clock: ManualClock) -> None:
    store = await opened(path, clock)
    clock.advance(3_600)
    with locked(path):
        await store.maintain()
        task = store._maintenance  # pyright: ignore[reportPrivateUsage]
        assert task is not None
        with contextlib.suppress(sqlite3.OperationalError):
            await task
    assert isinstance((await apply(store, reserve("1")))[0], Granted)
    await store.maintain()
    await store.close()
