"""What a worker promises about each task: run once, in time, stopped when asked, and always ended in the ledger."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text
from tests.support import tasks_sample as sample
from tests.support.tasks_processes import Stack, stack

from sparkle.tasks.broker_url import broker_target
from sparkle.tasks.calls import TaskCall
from sparkle.tasks.messages import Doorbell
from sparkle.tasks.publisher import Publisher
from sparkle.tasks.record import NewTask, TaskRecord
from sparkle.tasks.states import TaskState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, uses the embedded broker")


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Generator[Stack]:
    """Broker, relay and a worker with two children; shared, because starting them takes seconds."""
    with stack(tmp_path_factory.mktemp("st")) as made:
        with made.ledger.write() as connection:
            connection.execute(text("CREATE TABLE sample_effect (word TEXT, attempt INTEGER)"))
        made.broker()
        made.relay()
        made.worker(concurrency=2)
        yield made


@pytest.fixture
def schedule(running: Stack) -> Callable[..., TaskRecord]:
    def ask(name: str, *args: Any, **options: Any) -> TaskRecord:
        return running.tasks.schedule([TaskCall(name, args, **options)])[0]

    return ask


Schedule = Callable[..., TaskRecord]


@pytest.mark.parametrize("name", ["t.echo", "t.echo_async"])
def test_what_a_task_returns_is_in_the_ledger(running: Stack, schedule: Schedule, name: str) -> None:
    record = running.ended(schedule(name, {"答": [1, 2.5, None]}))
    assert (record.state, record.value, record.attempt) == (TaskState.SUCCEEDED, {"答": [1, 2.5, None]}, 1)
    assert record.error_type is None


def test_a_failed_task_is_tried_again_under_the_same_token(
    running: Stack, schedule: Schedule, tmp_path: Path
) -> None:
    task = schedule("t.fail_once", str(tmp_path / "runs"))
    record = running.ended(task)
    assert (record.state, record.value, record.attempt) == (TaskState.SUCCEEDED, 2, 2)
    assert sample.noted(tmp_path / "runs") == [task.id, task.id]


def test_a_task_that_fails_every_time_ends_as_a_dead_letter_and_can_be_replayed(
    running: Stack, schedule: Schedule
) -> None:
    parts = ("refused with ", "sk-proj-", "Ab1" * 16)  # in one piece no argument may hold a key
    record = running.ended(schedule("t.fail", *parts))
    assert (record.state, record.attempt, record.error_type) == (TaskState.FAILED, 3, "ValueError")
    assert record.error_message is not None
    assert parts[2] not in record.error_message
    running.ledger.replay(record.id)
    again = running.ended(record)
    assert (again.state, again.attempt) == (TaskState.FAILED, 3)


def test_a_result_that_is_no_json_is_a_failure_that_says_so(running: Stack, schedule: Schedule) -> None:
    record = running.ended(schedule("t.unstorable"))
    assert (record.state, record.error_type, record.attempt) == (TaskState.FAILED, "ResultError", 1)


@pytest.mark.parametrize("name", ["t.slow", "t.slow_async"])
def test_a_task_that_runs_too_long_is_stopped_inside(running: Stack, schedule: Schedule, name: str) -> None:
    record = running.ended(schedule(name))
    assert (record.state, record.error_type) == (TaskState.FAILED, "TaskTimeoutError")
    assert "0.3 s" in (record.error_message or "")


@pytest.mark.parametrize("name", ["t.hold", "t.hold_async"])
def test_cancelling_a_running_task_stops_it(
    running: Stack, schedule: Schedule, tmp_path: Path, name: str
) -> None:
    notes = tmp_path / "notes"
    task = schedule(name, str(notes), "x", str(tmp_path / "never"))
    running.wait(lambda: sample.noted(notes), "it has begun")
    running.ledger.cancel(task.id)
    assert running.ended(task).state is TaskState.CANCELLED
    assert sample.noted(notes) == ["begin:x"]


def test_progress_is_seen_while_the_task_runs(running: Stack, schedule: Schedule, tmp_path: Path) -> None:
    task = schedule("t.progress", str(tmp_path / "go"))

    def half_way() -> bool:
        record = running.ledger.get(task.id)
        return (record.progress, record.progress_note) == (0.5, "half way")

    running.wait(half_way, "the progress is in the ledger")
    assert running.ledger.get(task.id).state is TaskState.RUNNING
    (tmp_path / "go").touch()
    record = running.ended(task)
    assert (record.state, record.progress) == (TaskState.SUCCEEDED, 1.0)


def test_a_message_that_comes_ten_times_runs_its_task_once(
    running: Stack, schedule: Schedule, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    publisher = Publisher(broker_target("", running.data_dir))
    tasks = [schedule("t.write", str(notes), str(number), 0.02) for number in range(10)]
    ids = tuple(task.id for task in tasks)
    bell = Doorbell("sparkle.default.sync", ids)
    assert len(list(publisher.publish([bell] * 10))) == 10
    for task in tasks:
        assert running.ended(task).attempt == 1
    list(publisher.publish([bell] * 10))  # late ones
    marker = running.ended(schedule("t.echo", 1, priority=0))
    assert marker.state is TaskState.SUCCEEDED
    publisher.close()
    words = [word for word in sample.noted(notes) if word.startswith("begin")]
    assert sorted(words) == sorted(f"begin:{number}" for number in range(10))


def effects(running: Stack, word: str) -> list[int]:
    with running.ledger.read() as connection:
        rows = connection.execute(
            text("SELECT attempt FROM sample_effect WHERE word = :word ORDER BY attempt"), {"word": word}
        )
        return [int(row.attempt) for row in rows]


def test_what_a_task_writes_in_its_own_transaction_happens_once(running: Stack, schedule: Schedule) -> None:
    first = running.ended(schedule("t.effect", "once"))
    second = running.ended(schedule("t.effect_async", "once-async"))
    assert {first.state, second.state} == {TaskState.SUCCEEDED}
    assert (effects(running, "once"), effects(running, "once-async")) == ([1], [1])


def test_what_a_failed_attempt_wrote_is_gone(running: Stack, schedule: Schedule) -> None:
    record = running.ended(schedule("t.effect", "second", kwargs={"fail_first": True}))
    assert (record.state, record.attempt) == (TaskState.SUCCEEDED, 2)
    assert effects(running, "second") == [2]


def test_async_tasks_run_at_the_same_time_in_one_process(
    running: Stack, schedule: Schedule, tmp_path: Path
) -> None:
    # Two children: of 40 guests at least 20 come to one of them, whatever way they are dealt out; 10 are enough.
    until = tmp_path / "over"
    tasks = [schedule("t.meet", str(tmp_path), 10, str(until)) for _ in range(40)]

    def met() -> list[TaskRecord]:
        return [record for task in tasks if (record := running.ledger.get(task.id)).value is True]

    running.wait(lambda: len(met()) >= 10, "ten have met")
    until.touch()
    for task in tasks:
        assert running.ended(task).state is TaskState.SUCCEEDED


def test_a_name_no_worker_knows_waits_for_one_that_does_and_holds_up_nobody(
    running: Stack, schedule: Schedule
) -> None:
    (task,) = running.ledger.add([NewTask(name="t.from_a_newer_version", queue="sparkle.default.sync")])
    # What came later has been through the relay and a worker: the other could have been, too.
    assert running.ended(schedule("t.echo", "later")).value == "later"
    record = running.ledger.get(task.id)
    assert record.state is TaskState.WAITING
    assert (record.attempt, record.crashes, record.error_type) == (0, 0, None)
    running.ledger.cancel(task.id)


def test_a_task_that_swallows_its_interruption_is_killed_and_fails_by_its_limit(
    running: Stack, schedule: Schedule, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    record = running.ended(schedule("t.stubborn", str(notes)))
    assert (record.state, record.error_type, record.crashes) == (TaskState.FAILED, "TaskTimeoutError", 0)
    assert "was killed" in (record.error_message or "")
    assert sample.noted(notes)[:2] == ["begin", "swallowed"]


def test_a_task_that_lets_no_other_thread_run_is_killed_from_outside(
    running: Stack, schedule: Schedule, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    record = running.ended(schedule("t.gil", str(notes)))
    # Without a heartbeat its lease ends too: which of the two is seen first depends on who is quicker.
    assert record.state is TaskState.FAILED
    assert record.error_type in ("TaskTimeoutError", "WorkerCrashed")
    assert 1 <= len(sample.noted(notes)) <= 3


def test_a_task_that_kills_its_worker_every_time_is_put_aside(
    running: Stack, schedule: Schedule, tmp_path: Path
) -> None:
    notes = tmp_path / "notes"
    poison = schedule("t.poison", str(notes))
    others = [schedule("t.echo", number) for number in range(20)]
    record = running.ended(poison)
    assert (record.state, record.error_type) == (TaskState.FAILED, "WorkerCrashed")
    assert sample.noted(notes) == ["poison"] * 3
    assert [running.ended(task).value for task in others] == list(range(20))


def test_celerys_own_tools_see_the_worker(running: Stack) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "celery", "-A", "sparkle.tasks.celery_app", "inspect", "ping", "--json"],
        env=running.environ,
        cwd=running.folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    (answer,) = json.loads(done.stdout).values()
    assert answer == {"ok": "pong"}
