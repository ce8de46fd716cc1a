"""Long tasks: how fast they are scheduled and run, beside plain Celery, taskiq and dramatiq.

Every system gets a broker of its own with an append-only file, the same two worker processes and the same tasks. Tasks
are enqueued while no worker runs; then the workers start, and every task leaves one byte in a file. The rate is that of
the last nine tenths, so that the workers' start does not count; Sparkle's ends only when its ledger says that all is
over.
"""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine
from bench.errors import BenchError
from bench.long_systems import Kit, Stage, celery, dramatiq, on_stage, sparkle, taskiq
from bench.report import Table, median, number, spread

Say = Callable[[str], None]
_LONGEST = 240.0
_LOOK_SECONDS = 0.005
_WARM = 0.1
"""Share of the tasks that is run before the clock starts."""


@dataclass(frozen=True, slots=True)
class LongPlan:
    """How much is measured."""

    repeats: int = 3
    noops: int = 10_000
    waits: int = 2_000
    singles: int = 3_000
    frozen: int = 200


QUICK = LongPlan(repeats=1, noops=2_000, waits=400, singles=500, frozen=50)


@dataclass(slots=True)
class Found:
    """Figures by system and name, one for each repeat."""

    figures: dict[str, dict[str, list[float]]] = field(default_factory=dict[str, dict[str, list[float]]])
    failures: list[str] = field(default_factory=list[str])

    def note(self, system: str, figure: str, value: float) -> None:
        """Keep one."""
        self.figures.setdefault(system, {}).setdefault(figure, []).append(value)

    def of(self, system: str, figure: str) -> list[float]:
        """All repeats of one; empty: not measured."""
        return self.figures.get(system, {}).get(figure, [])


def run(plan: LongPlan, peers: str, say: Say) -> tuple[list[Table], dict[str, float], list[str]]:
    """Measure all systems in turn; tables, figures for the targets, failures.

    Args:
        plan: How much.
        peers: A Python that has taskiq, taskiq-redis and dramatiq; empty: not measured.
        say: Told what happens.
    """
    systems: dict[str, Callable[[Path], Kit]] = {"Sparkle": sparkle, "Celery": celery}
    if peers:
        systems["taskiq"] = lambda folder: taskiq(folder, peers)
        systems["dramatiq"] = lambda folder: dramatiq(folder, peers)
    found = Found()
    with tempfile.TemporaryDirectory(prefix="sb-") as temp:
        for repeat in range(plan.repeats):
            for name, make in systems.items():
                say(f"  repeat {repeat + 1} of {plan.repeats}: {name}")
                try:
                    with on_stage(make, Path(temp)) as stage:
                        _measure(stage, plan, found)
                except BenchError as exc:
                    found.failures.append(str(exc))
    return _tables(plan, systems, found, peers), figures_of(found), found.failures


def _measure(stage: Stage, plan: LongPlan, found: Found) -> None:
    name = stage.kit.name
    found.note(name, "enqueue", plan.noops / _seconds(stage.enqueue("noop", plan.noops)))
    with stage.working():
        found.note(name, "noops", drained(stage, plan.noops))
    found.note(name, "enqueue", plan.waits / _seconds(stage.enqueue("wait", plan.waits)))
    with stage.working():
        found.note(name, "waits", drained(stage, plan.noops + plan.waits, begin=plan.noops))
    if stage.kit.idle is None:
        return
    found.note(name, "single", plan.singles / _seconds(stage.enqueue("single", plan.singles)))
    with stage.working():
        drained(stage, plan.noops + plan.waits + plan.singles, begin=plan.noops + plan.waits)
        time.sleep(2.0)  # at rest: nothing to do, caches still warm
        for word, megabytes in at_rest(stage.pids).items():
            found.note(name, f"MB {word}", megabytes)
        os.kill(stage.pids["broker"], signal.SIGSTOP)
        try:
            answer = stage.enqueue("latency", plan.frozen)
        finally:
            os.kill(stage.pids["broker"], signal.SIGCONT)
        every = answer["milliseconds"]
        assert isinstance(every, list), "what the app prints"
        found.note(name, "frozen p50", every[len(every) // 2])
        found.note(name, "frozen p99", every[len(every) * 99 // 100])
        found.note(name, "frozen max", every[-1])


def at_rest(pids: dict[str, int]) -> dict[str, float]:
    """Megabytes (RSS) of each process: of a worker, its parent and the mean of its children."""
    sizes: dict[str, float] = {}
    for word, pid in pids.items():
        sizes[word] = machine.memory([pid]).rss_mb
        children = [child for child in machine.tree(pid) if child != pid]
        if word == "worker" and children:
            sizes["worker child"] = machine.memory(children).rss_mb / len(children)
    return sizes


def drained(stage: Stage, until: int, *, begin: int = 0) -> float:
    """Tasks a second over the last nine tenths.

    Args:
        stage: Whose workers have just been started.
        until: Marks there are in the end.
        begin: Marks there were before.

    Raises:
        BenchError: It takes longer than 240 s.
    """
    warm = begin + int((until - begin) * _WARM)
    give_up = time.monotonic() + _LONGEST
    first: tuple[float, int] | None = None
    while True:
        count = stage.marks.stat().st_size
        now = time.perf_counter()
        if first is None and count >= warm:
            first = now, count
        if count >= until and (stage.kit.idle is None or stage.kit.idle()):
            break
        if time.monotonic() > give_up:
            raise BenchError(
                f"{stage.kit.name} had run {count - begin} of {until - begin} tasks after {_LONGEST:.0f} s"
            )
        time.sleep(_LOOK_SECONDS)
    assert first is not None, "the last mark comes after the first ones"
    if first[1] >= until:
        raise BenchError(f"{stage.kit.name} ran {until - begin} tasks between two looks: too few to measure")
    return (until - first[1]) / (time.perf_counter() - first[0])


def _seconds(answer: dict[str, float | list[float]]) -> float:
    seconds = answer["seconds"]
    assert isinstance(seconds, float), "what the app prints"
    return seconds


def _tables(
    plan: LongPlan, systems: dict[str, Callable[[Path], Kit]], found: Found, peers: str
) -> list[Table]:
    rows: list[tuple[str, ...]] = []
    for name in systems:
        rows.append(
            (
                name,
                spread(found.of(name, "enqueue")),
                spread(found.of(name, "single")) if name == "Sparkle" else "the same",
                spread(found.of(name, "noops")),
                _ratio(found, name, "noops"),
                spread(found.of(name, "waits")),
                _ratio(found, name, "waits"),
            )
        )
    notes = [
        "Sparkle enqueues in batches of 500, and one by one in the next column; median (lowest-highest)."
    ]
    if not peers:
        notes.append("taskiq and dramatiq are not measured: --peers names a Python that has them.")
    main = Table(
        f"Long tasks: {plan.noops:,} no-ops, {plan.waits:,} that wait 10 ms, 2 worker processes",
        ("system", "enqueued/s", "one by one/s", "no-ops/s", "of Celery's", "waiting/s", "of Celery's"),
        tuple(rows),
        tuple(notes),
    )
    sizes = {
        figure.removeprefix("MB "): values
        for figure, values in found.figures.get("Sparkle", {}).items()
        if figure.startswith("MB ")
    }
    memory = Table(
        "Sparkle's processes at rest",
        ("process", "RSS, MB"),
        tuple((word, spread(values)) for word, values in sorted(sizes.items())),
    )
    frozen = Table(
        "schedule_long_task while the broker is frozen (SIGSTOP)",
        ("what", "ms"),
        tuple((word, spread(found.of("Sparkle", f"frozen {word}"))) for word in ("p50", "p99", "max")),
    )
    return [main, memory, frozen]


def _ratio(found: Found, name: str, figure: str) -> str:
    own, celerys = found.of(name, figure), found.of("Celery", figure)
    return spread([a / b for a, b in zip(own, celerys, strict=False)])


def figures_of(found: Found) -> dict[str, float]:
    """What the targets ask for; what was not measured is missing."""
    wanted = {
        "long_single_per_s": ("Sparkle", "single"),
        "long_batched_per_s": ("Sparkle", "enqueue"),
        "long_waits_per_s": ("Sparkle", "waits"),
        "long_broker_mb": ("Sparkle", "MB broker"),
        "long_relay_mb": ("Sparkle", "MB relay"),
        "long_beat_mb": ("Sparkle", "MB beat"),
        "long_child_mb": ("Sparkle", "MB worker child"),
        "long_frozen_max_ms": ("Sparkle", "frozen max"),
    }
    figures = {name: median(found.of(*where)) for name, where in wanted.items()}
    pairs = zip(found.of("Sparkle", "noops"), found.of("Celery", "noops"), strict=False)
    figures["long_noops_of_celery"] = median(a / b for a, b in pairs)
    return {name: value for name, value in figures.items() if value is not None}


def million(tasks: int, say: Say) -> Table:
    """Schedule so many no-ops and drain them, with the memory of every process on the way.

    Raises:
        BenchError: Nothing happens for 60 s.
    """
    from sparkle.tasks.ledger import Ledger

    most: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="sb-") as temp, on_stage(sparkle, Path(temp)) as stage:
        say(f"  scheduling {tasks:,} tasks")
        scheduled = _seconds(stage.enqueue("noop", tasks))
        with Ledger.open(stage.folder / "data") as ledger:
            full = ledger.size()
            began = time.monotonic()
            with stage.working():
                _watch(stage, tasks, most, say)
                drained_in = time.monotonic() - began
                end = ledger.size()
    rows = [
        ("scheduled", f"{number(tasks / scheduled)}/s, {scheduled:.0f} s"),
        ("drained, the workers' start included", f"{number(tasks / drained_in)}/s, {drained_in:.0f} s"),
        (
            "ledger when all waited",
            f"{full.bytes / 1e6:,.0f} MB, {full.bytes / max(full.tasks, 1):.0f} bytes a task",
        ),
        (
            "ledger when all were done",
            f"{end.bytes / 1e6:,.0f} MB, {end.free_bytes / 1e6:,.0f} MB of it free",
        ),
        *((f"{word}, most RSS", f"{megabytes:.1f} MB") for word, megabytes in sorted(most.items())),
    ]
    return Table(f"{tasks:,} no-ops", ("what", "figure"), tuple(rows))


def _watch(stage: Stage, tasks: int, most: dict[str, float], say: Say) -> None:
    before, moved = 0, time.monotonic()
    while True:
        count = stage.marks.stat().st_size
        for word, megabytes in at_rest(stage.pids).items():
            most[word] = max(most.get(word, 0.0), megabytes)
        if count >= tasks and (stage.kit.idle is None or stage.kit.idle()):
            return
        if count > before:
            if count // 100_000 > before // 100_000:
                say(f"  {count:,} done")
            before, moved = count, time.monotonic()
        elif time.monotonic() - moved > 60:
            raise BenchError(f"nothing has happened for 60 s after {count:,} of {tasks:,} tasks")
        time.sleep(2.0)
