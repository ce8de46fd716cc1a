"""Runs rounds of one fault: schedule, strike, wait, count."""

from __future__ import annotations

import contextlib
import random
import sys
import tempfile
import threading
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.chaos import observer
from tests.chaos.faults import (
    FAILURES,
    FAULTS,
    World,
    redis_in_memory,
    redis_socket,
    small_disk,
    start_server,
)
from tests.support.tasks_processes import Stack, stack

from sparkle.errors import SparkleError
from sparkle.tasks.calls import TaskCall
from sparkle.tasks.registry import load_task_modules

WORKLOAD = "tests.chaos.workload"
NEW = "tests.chaos.workload_new"
FAILING_PERCENT = 15
"""Share of attempts that fail in ``failures``; of the tasks at least 98% succeed all the same."""
DEFAULTS = {
    # What Sparkle does when nothing is set; the tests' own short leases would flatter it.
    "SPARKLE_TASKS__LEASE_SECONDS": "6",
    "SPARKLE_TASKS__HEARTBEAT_SECONDS": "2",
    "SPARKLE_TASKS__POLL_SECONDS": "0.5",
    "SPARKLE_TASKS__SHUTDOWN_SECONDS": "20",
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do."""

    fault: str
    rounds: int = 20
    tasks: int = 500
    seconds: float = 0.02
    """Length of one task."""
    strike_after: float = 0.3
    """Share of the round's tasks that have completed when the fault strikes."""
    patience: float = 60.0
    database_url: str = ""
    broker_url: str = ""
    seed: int = 0
    quick_leases: bool = False


@dataclass(frozen=True, slots=True)
class RoundResult:
    """What one round showed."""

    count: observer.Count
    in_flight: int
    """Tasks that were RUNNING when the fault struck."""
    unexplained: int
    """Tasks whose effects outside were repeated although they were not in flight then."""
    recovered: float
    """Seconds from the fault until the last of those in flight was finished and new ones completed again."""
    slowest_schedule: float
    """Seconds of the slowest call of ``schedule_long_task`` in the round, the fault's time included."""
    refused: int
    """Calls that raised a typed error instead of accepting a task."""

    def kept(self, fault: str) -> bool:
        """Whether every promise was kept: nothing lost, stuck, failed or done twice, recovery within 10 s."""
        found = self.count
        allowed = found.tasks // 50 if fault == FAILURES else 0
        broken = found.lost + found.stuck + found.twice + found.doubled + self.unexplained
        accounted = found.succeeded + found.failed == found.tasks
        return broken == 0 and accounted and found.failed <= allowed and self.recovered <= 10.0


def run(plan: Plan) -> Generator[RoundResult]:
    """Run all rounds of a plan over one stack; yields each round's result."""
    load_task_modules((WORKLOAD, NEW))
    with contextlib.ExitStack() as cleanup:
        folder = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="chaos-")))
        if plan.fault == "disk-full":
            cleanup.enter_context(small_disk(folder / "data"))
        environ = {} if plan.quick_leases else dict(DEFAULTS)
        environ["SPARKLE_TASKS__MODULES"] = f'["{WORKLOAD}", "{NEW}"]'
        if plan.database_url:
            environ["SPARKLE_TASKS__DATABASE_URL"] = plan.database_url
        if plan.broker_url:
            environ["SPARKLE_TASKS__BROKER_URL"] = plan.broker_url
        if plan.fault == "broker-memory":
            environ["SPARKLE_TASKS__BROKER_URL"] = f"unix://{redis_socket(folder)}"
        made = cleanup.enter_context(stack(folder, **environ))
        world = World(made, random.Random(plan.seed))
        _begin(plan, world)
        observer.prepare(made.ledger.engine)
        for number in range(plan.rounds):
            yield _round(plan, world, number)


def _begin(plan: Plan, world: World) -> None:
    if plan.fault == "broker-memory":
        world.start_broker = redis_in_memory(world.stack)
    if plan.fault == "server":
        world.server = start_server(world.stack)
        return
    if plan.broker_url and plan.fault != "broker-memory":
        world.relay, world.worker = world.stack.relay(), world.stack.worker()
    else:
        world.begin()
    if plan.fault == "two-versions":
        modules = world.stack.environ["SPARKLE_TASKS__MODULES"]
        world.beside = world.worker
        world.stack.environ["SPARKLE_TASKS__MODULES"] = f'["{WORKLOAD}"]'
        world.worker = world.stack.worker(concurrency=1)
        world.stack.environ["SPARKLE_TASKS__MODULES"] = modules


def _round(plan: Plan, world: World, number: int) -> RoundResult:
    made = world.stack
    folder = made.folder / f"round-{number}"
    folder.mkdir()
    names = ["chaos.step", "chaos.step_async"]
    if plan.fault == "two-versions":
        names.append("chaos.step_new")
    arguments: tuple[str | float, ...] = (str(folder), plan.seconds)
    if plan.fault == FAILURES:
        names, arguments = ["chaos.flaky"], (*arguments, FAILING_PERCENT)
    calls = [TaskCall(names[at % len(names)], args=arguments) for at in range(plan.tasks)]
    # Most are there before the fault; the rest is scheduled one by one while it strikes.
    late = _Late(made, calls[-max(1, plan.tasks // 10) :])
    ids = [record.id for record in made.tasks.schedule(calls[: -len(late.calls)])]
    before = observer.completions(made.ledger.engine)
    made.wait(
        lambda: observer.completions(made.ledger.engine) - before >= plan.strike_after * plan.tasks,
        "enough tasks have completed for the fault to strike",
        plan.patience,
    )
    world.in_flight = frozenset()
    late.start()
    FAULTS[plan.fault](world)
    late.join()
    ids += late.ids
    recovered = _recovered(plan, world)
    with contextlib.suppress(AssertionError):  # what is not finished then is counted as stuck
        made.wait(lambda: observer.unfinished(made.ledger.engine) == 0, "all are finished", plan.patience)
    repeated = observer.repeated(folder, ids)
    found = observer.count(made.ledger, folder, ids)
    if found.stuck or found.lost:
        print(made.report(), file=sys.stderr)  # what a person needs to find out why
    return RoundResult(
        count=found,
        in_flight=len(world.in_flight),
        # An attempt that failed has left its trace too: that is what retrying means.
        unexplained=0 if plan.fault == FAILURES else len(repeated - world.in_flight),
        recovered=recovered,
        slowest_schedule=late.slowest,
        refused=late.refused,
    )


def _recovered(plan: Plan, world: World) -> float:
    """Wait until what was in flight is finished and further tasks complete; seconds since the fault."""
    engine = world.stack.ledger.engine
    before = observer.completions(engine)

    def over() -> bool:
        if observer.unfinished(engine, world.in_flight):
            return False
        return observer.completions(engine) > before or observer.unfinished(engine) == 0

    with contextlib.suppress(AssertionError):
        world.stack.wait(over, "the fault is over", plan.patience)
    return time.monotonic() - world.struck_at


class _Late(threading.Thread):
    """Schedules tasks one by one while something breaks, and takes the time of each call."""

    def __init__(self, made: Stack, calls: Sequence[TaskCall]) -> None:
        super().__init__(name="late tasks")
        self.calls = calls
        self.ids: list[str] = []
        self.slowest = 0.0
        self.refused = 0
        self._tasks = made.tasks
        self._pause = threading.Event()

    def run(self) -> None:
        for call in self.calls:
            started = time.monotonic()
            try:
                self.ids += [record.id for record in self._tasks.schedule([call])]
            except SparkleError:
                self.refused += 1  # nothing was accepted, so nothing can be lost
            self.slowest = max(self.slowest, time.monotonic() - started)
            self._pause.wait(0.02)
