"""Kill, freeze and empty every part once: nothing is lost, nothing is completed twice, all of it within seconds."""

from __future__ import annotations

import os
import signal
import socket
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.support import tasks_sample as sample
from tests.support.serve import is_alive, wait_for_end
from tests.support.tasks_processes import Proc, Stack, stack

from sparkle.errors import BrokerUnavailableError
from sparkle.tasks.broker import broker_answers, broker_command, broker_socket
from sparkle.tasks.broker_url import broker_target
from sparkle.tasks.calls import TaskCall
from sparkle.tasks.publisher import Publisher
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.relay import ROLE
from sparkle.tasks.states import TaskState

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, uses the embedded broker")

COUNT = 60


def schedule_writes(made: Stack, notes: Path, count: int = COUNT, seconds: float = 0.03) -> list[TaskRecord]:
    """Half of them plain, half async; each leaves a line when it begins and when it ends."""
    return made.tasks.schedule(
        [
            TaskCall("t.write" if number % 2 else "t.write_async", (str(notes), str(number), seconds))
            for number in range(count)
        ]
    )


def some_have_run(made: Stack, notes: Path, count: int = COUNT // 4) -> None:
    made.wait(lambda: len(sample.noted(notes)) >= count, f"{count} lines are written")


def all_of_them_once(made: Stack, notes: Path, tasks: Sequence[TaskRecord]) -> None:
    """Every task succeeded, and its work was really done."""
    assert made.all_ended(len(tasks)) == {"succeeded": len(tasks)}
    ends = {word for word in sample.noted(notes) if word.startswith("end:")}
    assert ends == {f"end:{number}" for number in range(len(tasks))}


@pytest.mark.parametrize("victim", ["child", "parent", "group"])
def test_a_killed_worker_loses_no_task(tmp_path: Path, victim: str) -> None:
    notes = tmp_path / "notes"
    with stack(tmp_path) as made:
        made.broker()
        made.relay()
        worker = made.worker()
        tasks = schedule_writes(made, notes)
        some_have_run(made, notes)
        family = worker.children()
        if victim == "child":
            os.kill(family[0], signal.SIGKILL)
        else:
            worker.kill() if victim == "parent" else worker.kill_group()
            wait_for_end(family)  # no orphan goes on working
            made.worker()
        all_of_them_once(made, notes, tasks)


def test_a_killed_relay_is_followed_by_the_one_that_stands_by(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with stack(tmp_path) as made:
        made.broker()
        relays = [made.relay(), made.relay()]
        made.worker()

        def active() -> list[Proc]:
            pids = {owner.info["pid"] for owner in made.ledger.owners(ROLE) if owner.info.get("active")}
            return [relay for relay in relays if relay.alive and relay.pid in pids]

        made.wait(lambda: len(active()) == 1, "one relay is active")
        tasks = schedule_writes(made, notes)
        some_have_run(made, notes)
        active()[0].kill()
        all_of_them_once(made, notes, tasks)


def test_a_killed_broker_costs_nothing_but_the_time_it_is_away(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with stack(tmp_path) as made:
        broker = made.broker()
        made.relay()
        made.worker()
        tasks = schedule_writes(made, notes)
        some_have_run(made, notes)
        broker.kill()
        tasks += made.tasks.schedule([TaskCall("t.echo", (1,))])  # needs no broker
        made.broker()
        assert made.all_ended(len(tasks)) == {"succeeded": len(tasks)}
        assert len({word for word in sample.noted(notes) if word.startswith("end:")}) == COUNT


def test_a_broker_that_lost_its_data_is_rung_again(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with stack(tmp_path) as made:
        made.broker()
        made.relay()
        tasks = schedule_writes(made, notes)
        made.wait(lambda: made.states() == {"queued": COUNT}, "all are handed to the broker")
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(str(broker_socket(made.data_dir)))
            sock.sendall(b"FLUSHALL\r\n")
            assert sock.recv(16) == b"+OK\r\n"
        made.worker()
        all_of_them_once(made, notes, tasks)


def test_a_frozen_broker_holds_up_nobody_who_schedules(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with stack(tmp_path) as made:
        broker = made.broker()
        made.relay()
        made.worker()
        tasks = schedule_writes(made, notes)
        some_have_run(made, notes)
        broker.send(signal.SIGSTOP)
        publisher = Publisher(broker_target("", made.data_dir))
        with pytest.raises(BrokerUnavailableError, match="does not answer"):
            publisher.check()
        publisher.close()
        more = schedule_writes(made, tmp_path / "more")
        assert [made.ledger.get(task.id).attempt for task in more] == [0] * COUNT
        broker.send(signal.SIGCONT)
        assert made.all_ended(len(tasks) + len(more)) == {"succeeded": 2 * COUNT}


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGQUIT])
def test_a_worker_that_is_stopped_hands_back_what_it_cannot_finish(
    tmp_path: Path, sig: signal.Signals
) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with stack(tmp_path, SPARKLE_TASKS__SHUTDOWN_SECONDS="0.5") as made:
        made.broker()
        made.relay()
        worker = made.worker()
        held = made.tasks.schedule(
            [
                TaskCall(name, (str(notes), str(i), str(go)))
                for i, name in enumerate(["t.hold", "t.hold_async"])
            ]
        )
        waiting = made.tasks.schedule([TaskCall("t.write", (str(notes), str(i))) for i in range(2, 20)])
        some_have_run(made, notes, 2)
        assert worker.stop(sig) == 0
        if sig is signal.SIGTERM:
            assert worker.log.read_text().count("worker children still run tasks") == 1
        for task in held:
            record = made.ledger.get(task.id)
            assert (record.attempt, record.crashes) == (0, 0)
            assert record.state in (TaskState.WAITING, TaskState.QUEUED)
        assert made.ledger.owners("worker") == []
        go.touch()
        made.worker()
        all_of_them_once(made, notes, [*held, *waiting])


def test_a_worker_that_is_stopped_lets_a_task_end_that_needs_little_time(tmp_path: Path) -> None:
    notes, go = tmp_path / "notes", tmp_path / "go"
    with stack(tmp_path, SPARKLE_TASKS__SHUTDOWN_SECONDS="30") as made:
        made.broker()
        made.relay()
        worker = made.worker()
        tasks = made.tasks.schedule(
            [
                TaskCall(name, (str(notes), str(i), str(go)))
                for i, name in enumerate(["t.hold", "t.hold_async"])
            ]
        )
        some_have_run(made, notes, 2)
        worker.send(signal.SIGTERM)
        go.touch()
        assert worker.stop() == 0
        records = [made.ledger.get(task.id) for task in tasks]
        assert [(record.state, record.attempt) for record in records] == [(TaskState.SUCCEEDED, 1)] * 2


def test_tasks_run_by_priority_and_then_in_order(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    with stack(tmp_path) as made:
        made.broker()
        calls = [
            TaskCall("t.order", (str(notes), f"{priority}-{number}"), priority=priority)
            for number in range(3)
            for priority in (5, 0, 9, 7, 3)
        ]
        tasks = made.tasks.schedule(calls)
        made.relay()
        made.wait(lambda: made.states() == {"queued": len(tasks)}, "all are handed to the broker")
        made.worker(concurrency=1)
        assert made.all_ended(len(tasks)) == {"succeeded": len(tasks)}
        expected = [f"{priority}-{number}" for priority in (9, 7, 5, 3, 0) for number in range(3)]
        assert sample.noted(notes) == expected


def test_two_beats_fire_each_tick_once_and_one_goes_on_when_the_other_is_killed(tmp_path: Path) -> None:
    schedules = '{"each-second": {"task": "t.echo", "every": 1, "args": [1]}}'
    with stack(tmp_path, SPARKLE_TASKS__SCHEDULES=schedules) as made:
        beats = [made.beat(), made.beat()]

        def ticks() -> list[str]:
            return [str(record.schedule) for record in made.ledger.find(limit=100).records]

        made.wait(lambda: len(ticks()) >= 2, "two ticks have fired")
        active = {owner.info["pid"] for owner in made.ledger.owners("beat") if owner.info["active"]}
        victim = next(beat for beat in beats if beat.pid in active)
        before = set(ticks())
        victim.kill()
        made.wait(lambda: len(set(ticks()) - before) >= 2, "the other one fires")
        assert len(ticks()) == len(set(ticks()))


def test_a_second_broker_on_the_same_folder_is_refused_and_the_first_dies_with_its_owner(
    tmp_path: Path,
) -> None:
    with stack(tmp_path) as made:
        first = made.broker()
        second = made.start("second", broker_command(made.data_dir))
        assert second.process.wait() == 1
        assert "already runs" in second.log.read_text()
        assert first.alive
        # The whole server says so once, instead of starting a broker again and again.
        server = [sys.executable, "-m", "sparkle.cli", "serve", "--port", "0", "--with-worker"]
        refused = made.start("server", [*server, "--upstream", "http://127.0.0.1:9/v1"])
        assert refused.process.wait() == 1
        assert "without --with-worker" in refused.log.read_text()
        owner = made.start("owner", [sys.executable, "-c", _OWNER, str(tmp_path / "other")])
        made.wait(lambda: (tmp_path / "other" / "pid").exists(), "the owner has started a broker")
        pid = int((tmp_path / "other" / "pid").read_text())
        assert is_alive(pid)
        owner.kill()
        wait_for_end([pid])


def test_a_broker_can_be_run_by_hand(tmp_path: Path) -> None:
    with stack(tmp_path) as made:
        broker = made.start("broker", [sys.executable, "-m", "sparkle.cli", "broker"])
        made.wait(lambda: broker_answers(made.data_dir), "the broker answers")
        assert broker.stop() == 0


_OWNER = """
import subprocess, sys, time
from pathlib import Path
from sparkle.tasks.broker import broker_answers, broker_command
folder = Path(sys.argv[1])
process = subprocess.Popen(broker_command(folder))
while not broker_answers(folder):
    time.sleep(0.01)
(folder / "pid.new").write_text(str(process.pid))
(folder / "pid.new").rename(folder / "pid")
process.wait()
"""
