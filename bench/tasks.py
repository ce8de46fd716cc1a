"""Background tasks: what a short one costs beside asyncio's own and others, how fast long ones are run."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from dataclasses import dataclass, field, replace
from pathlib import Path

from bench import long_tasks
from bench.errors import BenchError
from bench.gateway import Setting
from bench.patience import Patience
from bench.report import Part, Table, median, spread

_CHILD = Path(__file__).with_name("short_tasks.py")
_OURS = ("create_task", "TaskGroup", "by hand", "TaskManager", "TaskManager, ledger")
_PEERS = ("aiojobs", "anyio")
_KEPT = {
    "create_task": "nothing: an exception may be lost",
    "TaskGroup": "exceptions",
    "by hand": "a record, counters, a histogram",
    "TaskManager": "all of it: limits, time limit, record, history, metrics",
    "TaskManager, ledger": "and a row in SQLite",
    "aiojobs": "limits, exceptions",
    "anyio": "exceptions, cancellation",
}
_FIGURES = {
    "alone_cpu_us": "one by one, us CPU",
    "burst_cpu_us": "bursts of 100, us CPU",
    "burst_wall_us": "the same, us wall",
    "live_bytes": "live, bytes",
    "finished_bytes": "finished, bytes",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        repeats: Rounds over all systems.
        tasks: Short tasks of one run.
        peers: A Python with aiojobs, anyio, taskiq-redis and dramatiq; empty: those are not measured.
        million: Long tasks to schedule and drain in one go at the end; 0: none.
        long: How much of long tasks.
    """

    repeats: int = 3
    tasks: int = 20_000
    peers: str = ""
    million: int = 0
    long: long_tasks.LongPlan = field(default_factory=long_tasks.LongPlan)


QUICK = Plan(repeats=1, tasks=5_000, long=long_tasks.QUICK)


def run(plan: Plan, setting: Setting) -> Part:
    """Measure.

    Args:
        plan: How much.
        setting: Whom to tell, and how long to wait for quiet moments.
    """
    began = time.monotonic()
    failures: list[str] = []
    table, figures = _short(plan, setting, failures)
    setting.say("  long tasks")
    long_plan = replace(plan.long, repeats=plan.repeats)
    tables, more, failed = long_tasks.run(long_plan, plan.peers, setting.say)
    failures += failed
    if plan.million:
        try:
            tables.append(long_tasks.million(plan.million, setting.say))
        except BenchError as exc:
            failures.append(str(exc))
    return Part(
        "tasks",
        setting.command,
        time.monotonic() - began,
        (table, *tables),
        {**figures, **more},
        tuple(failures),
    )


def _short(plan: Plan, setting: Setting, failures: list[str]) -> tuple[Table, dict[str, float]]:
    systems = {name: sys.executable for name in _OURS}
    if plan.peers:
        systems |= dict.fromkeys(_PEERS, plan.peers)
    patience = Patience(setting.patience)
    runs: dict[str, list[dict[str, float]]] = {name: [] for name in systems}
    for repeat in range(plan.repeats):
        setting.say(f"  short tasks, repeat {repeat + 1} of {plan.repeats}")
        for name, python in systems.items():
            patience.begin()
            patience.wait()
            try:
                runs[name].append(_one(name, python, plan.tasks))
            except BenchError as exc:
                failures.append(str(exc))
    rows = tuple(_row(name, found, runs["create_task"]) for name, found in runs.items())
    notes = [
        "CPU times are what to compare by; memory by tracemalloc, the coroutine and its future included."
    ]
    if not plan.peers:
        notes.append("aiojobs and anyio are not measured: --peers names a Python that has them.")
    columns = ("system", "what it keeps", *_FIGURES.values(), "CPU, times create_task")
    return Table("Short tasks, in one process", columns, rows, tuple(notes)), figures_of(runs["TaskManager"])


def _one(name: str, python: str, tasks: int) -> dict[str, float]:
    done = subprocess.run(
        [python, str(_CHILD), name, str(tasks)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        last = (done.stderr.strip().splitlines() or ["no output"])[-1]
        raise BenchError(f"{name}: {last}")
    return json.loads(done.stdout)


def _row(name: str, found: list[dict[str, float]], base: list[dict[str, float]]) -> tuple[str, ...]:
    cells = [spread([one[figure] for one in found]) for figure in _FIGURES]
    pairs = zip(found, base, strict=False)
    return name, _KEPT[name], *cells, spread([a["alone_cpu_us"] / b["alone_cpu_us"] for a, b in pairs])


def figures_of(found: list[dict[str, float]]) -> dict[str, float]:
    """What the targets ask for, of several runs of the TaskManager."""
    figures = {
        "short_alone_us": median(one["alone_cpu_us"] for one in found),
        "short_per_s": median(1e6 / one["burst_cpu_us"] for one in found),
        "short_live_bytes": median(one["live_bytes"] for one in found),
        "short_finished_bytes": median(one["finished_bytes"] for one in found),
    }
    return {name: value for name, value in figures.items() if value is not None}
