"""The benchmark of tasks: what it says is what it measured."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from bench import long_tasks, report, tasks
from bench.errors import BenchError
from bench.long_systems import Kit, on_stage
from bench.long_tasks import Found, drained, figures_of
from bench.short_tasks import SYSTEMS, measure

_ENQUEUE = (
    "import json,sys; open('todo','a').write('x'*int(sys.argv[2])); print(json.dumps({'seconds': 0.5}))"
)
_WORKER = """
import os
while True:
    todo, done = os.path.getsize('todo'), os.path.getsize(os.environ['BENCH_MARKS'])
    with open(os.environ['BENCH_MARKS'], 'ab') as marks:
        marks.write(b'.' * min(7, todo - done))
        os.fsync(marks.fileno())  # slow enough to be seen at work
"""
_BROKER = "import pathlib, time; pathlib.Path('broker.sock').touch(); time.sleep(600)"


def toy(folder: Path, *, broker: str = _BROKER) -> Kit:
    """The smallest system there can be: a file of tasks, a file of marks."""
    return Kit(
        "toy",
        (sys.executable, "-c", _ENQUEUE),
        {"worker": (sys.executable, "-c", _WORKER)},
        {"broker": (sys.executable, "-c", broker)},
        {"BENCH_MARKS": str(folder / "marks")},
        folder / "broker.sock",
    )


def test_every_target_of_tasks_is_measured_somewhere() -> None:
    short = tasks.figures_of(
        [{"alone_cpu_us": 2.0, "burst_cpu_us": 1.0, "live_bytes": 1.0, "finished_bytes": 1.0}]
    )
    found = Found()
    for name in (
        "single",
        "enqueue",
        "waits",
        "noops",
        "MB broker",
        "MB relay",
        "MB beat",
        "MB worker child",
    ):
        found.note("Sparkle", name, 6.0)
    found.note("Sparkle", "frozen max", 1.0)
    found.note("Celery", "noops", 3.0)
    long = figures_of(found)
    assert {**short, **long}.keys() == {t.figure for t in report.targets() if t.part == "tasks"}
    assert short["short_per_s"] == 1e6
    assert long["long_noops_of_celery"] == 2.0


@pytest.mark.parametrize("system", ["create_task", "TaskGroup", "by hand", "TaskManager"])
async def test_a_short_tasks_cost_is_measured_for_every_system(system: str) -> None:
    assert system in SYSTEMS
    figures = await measure(system, 1_000)
    assert set(figures) == {
        *("alone_cpu_us", "alone_wall_us", "burst_cpu_us", "burst_wall_us"),
        *("live_bytes", "finished_bytes"),
    }
    assert all(value >= 0 for value in figures.values())
    assert figures["live_bytes"] > 100


def test_a_system_is_started_fed_drained_and_stopped(tmp_path: Path) -> None:
    with on_stage(toy, tmp_path) as stage:
        assert stage.enqueue("noop", 5_000) == {"seconds": 0.5}
        with stage.working():
            assert drained(stage, 5_000) > 0
            assert set(long_tasks.at_rest(stage.pids)) == {"broker", "worker"}
        assert stage.marks.stat().st_size == 5_000


def test_a_broker_that_does_not_start_is_said(tmp_path: Path) -> None:
    def broken(folder: Path) -> Kit:
        return toy(folder, broker="raise SystemExit('no room')")

    with pytest.raises(BenchError, match="toy did not start: no room"), on_stage(broken, tmp_path):
        pass


def test_enqueueing_that_fails_is_said(tmp_path: Path) -> None:
    with on_stage(toy, tmp_path) as stage, pytest.raises(BenchError, match="could not enqueue: ValueError"):
        stage.enqueue("noop", "many")  # pyright: ignore[reportArgumentType]  that is the test
