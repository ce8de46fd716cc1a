"""Short tasks in the ledger: written behind the tasks, whole after an outage, marked when their process dies."""

from __future__ import annotations

import asyncio
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Generator, Sequence
from pathlib import Path

import pytest
from tests.support.clock import ManualClock
from tests.support.short_tasks import Gate, settle

from sparkle.settings_tasks import ShortTasksSettings
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.manager import TaskManager
from sparkle.tasks.record import TaskFilter, TaskRecord
from sparkle.tasks.states import TaskMode, TaskState
from sparkle.tasks.write_behind import ALIVE_SECONDS


class WatchedLedger(Ledger):
    """The real ledger; tells how many records each write had."""

    writes: list[int]

    def write_short(self, records: Sequence[TaskRecord]) -> None:
        super().write_short(records)
        self.writes.append(len(records))


@pytest.fixture
def ledger(tmp_path: Path) -> Generator[WatchedLedger]:
    with WatchedLedger.open(tmp_path, busy_seconds=0.05) as opened:
        assert isinstance(opened, WatchedLedger)
        opened.writes = []
        yield opened


async def written(tasks: TaskManager, clock: ManualClock) -> None:
    """Let time pass until no record waits."""
    for _ in range(2):
        await settle()
        clock.advance(0.5)
        while tasks.health_check().unwritten:
            await asyncio.sleep(0.001)
            clock.advance(0.5)


async def test_a_finished_task_stands_in_the_ledger_as_in_the_history(ledger: WatchedLedger) -> None:
    clock = ManualClock(time.time())
    async with TaskManager(ledger=ledger, clock=clock) as tasks:
        handle = await tasks.spawn(asyncio.sleep(0), task_name="embed", user_id="ann", priority=8)
        await handle
        await written(tasks, clock)
        row = await asyncio.to_thread(ledger.get, handle.id)
        assert row.lease_owner is not None
        assert (row.state, row.name, row.user_id, row.priority) == (TaskState.SUCCEEDED, "embed", "ann", 8)
        assert row.finished_at == handle.record.finished_at
        assert row.mode is TaskMode.SHORT


async def test_a_running_task_is_in_the_ledger_and_so_is_its_process(ledger: WatchedLedger) -> None:
    clock, gate = ManualClock(time.time()), Gate()
    settings = ShortTasksSettings(drain_seconds=0.0)
    async with TaskManager(settings, ledger=ledger, clock=clock) as tasks:
        handle = await tasks.spawn(gate.work(), task_name="slow")
        await written(tasks, clock)
        row = await asyncio.to_thread(ledger.get, handle.id)
        assert row.state is TaskState.RUNNING
        [owner] = await asyncio.to_thread(ledger.owners, "manager")
        assert row.lease_owner == owner.id
        assert owner.info["pid"]
        gate.opened.set()
        await handle
    assert ledger.get(handle.id).state is TaskState.SUCCEEDED, "the end writes what is left"
    assert not ledger.owners("manager"), "and says goodbye"


async def test_a_task_that_begins_and_ends_between_two_writes_is_written_once(ledger: WatchedLedger) -> None:
    clock = ManualClock(time.time())
    async with TaskManager(ledger=ledger, clock=clock) as tasks:
        await written(tasks, clock)
        ledger.writes.clear()
        for _ in range(50):
            await (await tasks.spawn(asyncio.sleep(0), task_name="quick"))
    assert sum(ledger.writes) == 50


async def test_an_outage_of_the_ledger_stops_no_task_and_loses_no_record(
    ledger: WatchedLedger, tmp_path: Path
) -> None:
    clock = ManualClock(time.time())
    locked = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    async with TaskManager(ledger=ledger, clock=clock) as tasks:
        await written(tasks, clock)
        locked.execute("BEGIN IMMEDIATE")
        handles = [await tasks.spawn(asyncio.sleep(0), task_name="quick") for _ in range(20)]
        await asyncio.gather(*handles)
        await fails(tasks, clock)
        health = tasks.health_check()
        assert health.ledger_error == "LedgerUnavailableError"
        assert not health.healthy
        assert health.unwritten == 20
        late = await tasks.spawn(asyncio.sleep(0), task_name="late")
        await late
        locked.execute("COMMIT")
        clock.advance(60.0)
        await written(tasks, clock)
        assert tasks.health_check().ledger_error is None
    page = ledger.find(TaskFilter(mode=TaskMode.SHORT), limit=100)
    assert {record.id for record in page.records} == {late.id, *(handle.id for handle in handles)}
    assert {record.state for record in page.records} == {TaskState.SUCCEEDED}
    locked.close()


async def fails(tasks: TaskManager, clock: ManualClock) -> None:
    while tasks.health_check().ledger_error is None:
        await asyncio.sleep(0.001)
        clock.advance(0.5)


async def test_records_that_wait_too_long_are_given_up_and_counted(
    ledger: WatchedLedger, tmp_path: Path
) -> None:
    clock = ManualClock(time.time())
    locked = sqlite3.connect(tmp_path / "tasks.db", isolation_level=None)
    settings = ShortTasksSettings(unwritten=5)
    async with TaskManager(settings, ledger=ledger, clock=clock) as tasks:
        await written(tasks, clock)
        locked.execute("BEGIN IMMEDIATE")
        handles = [await tasks.spawn(asyncio.sleep(0), task_name="quick") for _ in range(4)]
        await asyncio.gather(*handles)
        await fails(tasks, clock)
        more = [await tasks.spawn(asyncio.sleep(0), task_name="quick") for _ in range(8)]
        await asyncio.gather(*more)
        locked.execute("COMMIT")
    text = tasks.render_metrics()[0].decode()
    kept = len(ledger.find(limit=100).records)
    lost = 12 - kept
    assert f"sparkle_short_task_records_lost_total {float(lost)}" in text
    locked.close()


async def test_tasks_that_end_faster_than_they_can_be_written_are_slowed_down_and_not_lost(
    ledger: WatchedLedger,
) -> None:
    async with TaskManager(ShortTasksSettings(unwritten=40, write_seconds=0.01), ledger=ledger) as tasks:
        for _ in range(400):
            await tasks.spawn(asyncio.sleep(0), task_name="quick")
            assert tasks.health_check().unwritten <= 200
    assert len(ledger.find(limit=1_000).records) == 400


async def test_a_task_that_is_cancelled_in_the_ledger_is_cancelled_where_it_runs(
    ledger: WatchedLedger,
) -> None:
    clock, gate = ManualClock(time.time()), Gate()
    async with TaskManager(ledger=ledger, clock=clock) as tasks:
        handle = await tasks.spawn(gate.work(), task_name="slow")
        await written(tasks, clock)
        await asyncio.to_thread(ledger.cancel, handle.id)
        while not handle.done():
            await asyncio.sleep(0.001)
            clock.advance(0.5)
        assert gate.cancelled == ["it"]
    row = ledger.get(handle.id)
    assert row.state is TaskState.CANCELLED
    assert row.cancel_requested


def test_what_ends_the_process_is_in_the_ledger_too(ledger: WatchedLedger) -> None:
    async def leave() -> None:
        raise SystemExit(3)

    async def main() -> None:
        async with TaskManager(ledger=ledger) as tasks:
            await tasks.spawn(leave(), task_name="leave")
            await asyncio.Event().wait()

    with pytest.raises(SystemExit):
        asyncio.run(main())
    [record] = ledger.find().records
    assert (record.state, record.error_type) == (TaskState.FAILED, "SystemExit")
    assert not ledger.owners("manager")


_ORPHAN = """
import asyncio, sys
from pathlib import Path
from sparkle.settings_tasks import ShortTasksSettings
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.manager import TaskManager

async def main():
    with Ledger.open(Path(sys.argv[1])) as ledger:
        async with TaskManager(ShortTasksSettings(write_seconds=0.01), ledger=ledger) as tasks:
            handle = await tasks.spawn(asyncio.sleep(600), task_name="orphan")
            await (await tasks.spawn(asyncio.sleep(0), task_name="done"))
            while tasks.health_check().unwritten:
                await asyncio.sleep(0.005)
            print(handle.id, flush=True)
            await handle

asyncio.run(main())
"""


def test_what_a_killed_process_was_running_is_marked_as_interrupted(tmp_path: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", _ORPHAN, str(tmp_path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        id_ = process.stdout.readline().strip()
        process.send_signal(signal.SIGKILL)
    with Ledger.open(tmp_path) as now:
        deadline = time.monotonic() + 10
        while now.get(id_).state is not TaskState.RUNNING:  # the write may have been under way
            assert time.monotonic() < deadline
        assert not now.expire(), "its process may still be alive"
    with Ledger.open(tmp_path, clock=ManualClock(time.time() + ALIVE_SECONDS + 1)) as later:
        assert later.expire() == [id_]
        record = later.get(id_)
        assert record.state is TaskState.INTERRUPTED
        assert record.finished_at is not None
        [done] = later.find(TaskFilter(name="done")).records
        assert done.state is TaskState.SUCCEEDED
