"""What Prometheus sees of long tasks: what the ledger knows, counted by the active relay.

Queue lengths read from a broker lie: they miss what workers hold and what waits in the ledger. So the active relay
writes these figures to a text file in the data folder, which the gateway's ``/metrics`` passes on, and can serve them
on a port of its own. Labels are queues, states and task names, never a user or a task.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

METRICS_FILE = "tasks-metrics.prom"
"""In the data folder."""
FRESH_SECONDS = 60.0
"""An older file is that of a relay that is gone; its figures are no longer true."""
_MAX_NAMES = 200
_OTHER = "other"


@dataclass(frozen=True, slots=True)
class TaskMetric:
    """One metric as it is declared."""

    name: str
    kind: Literal["gauge", "counter"]
    help: str
    labels: tuple[str, ...] = ()


TASKS = TaskMetric("sparkle_tasks", "gauge", "Unfinished long tasks.", ("state", "queue"))
DEAD = TaskMetric("sparkle_task_dead_letters", "gauge", "Long tasks that failed for good.", ("name",))
OLDEST_DUE = TaskMetric(
    "sparkle_task_oldest_due_seconds",
    "gauge",
    "How long the longest-due task of a queue has waited in the ledger.",
    ("queue",),
)
OLDEST_QUEUED = TaskMetric(
    "sparkle_task_oldest_queued_seconds",
    "gauge",
    "How long the oldest task handed to the broker has not been claimed.",
    ("queue",),
)
RUNS = TaskMetric(
    "sparkle_task_runs_total", "counter", "Attempts of long tasks that ran to an end.", ("name",)
)
EXPECTED = TaskMetric(
    "sparkle_task_expected_seconds", "gauge", "Moving average of an attempt's run time.", ("name",)
)
PROCESSES = TaskMetric(
    "sparkle_task_processes",
    "gauge",
    "Processes that announced themselves and did not leave.",
    ("kind", "alive"),
)
HANDED = TaskMetric(
    "sparkle_task_relay_handed_over_total", "counter", "Tasks the active relay handed to the broker."
)
MESSAGES = TaskMetric("sparkle_task_relay_messages_total", "counter", "Messages the active relay published.")
RUNG_AGAIN = TaskMetric(
    "sparkle_task_relay_rung_again_total",
    "counter",
    "Tasks rung for again because their message seemed lost.",
)
EXPIRED = TaskMetric(
    "sparkle_task_leases_expired_total", "counter", "Leases that ended without a word from their worker."
)
BROKER_FAILURES = TaskMetric(
    "sparkle_task_broker_failures_total", "counter", "Attempts to reach the broker that failed."
)
BROKER_UP = TaskMetric("sparkle_task_broker_up", "gauge", "Whether the broker answered the active relay.")
DECLARED = (
    *(TASKS, DEAD, OLDEST_DUE, OLDEST_QUEUED, RUNS, EXPECTED, PROCESSES),
    *(HANDED, MESSAGES, RUNG_AGAIN, EXPIRED, BROKER_FAILURES, BROKER_UP),
)
"""All of them, in the order in which they are shown."""


@dataclass(frozen=True, slots=True)
class RelayFigures:
    """What the active relay counted since it started."""

    handed_over: int = 0
    messages: int = 0
    rung_again: int = 0
    expired: int = 0
    broker_failures: int = 0
    broker_answers: bool = True


@dataclass(slots=True)
class _Text:
    lines: list[str] = field(default_factory=list[str])

    def metric(self, metric: TaskMetric, values: Mapping[tuple[str, ...], float]) -> None:
        self.lines.append(f"# HELP {metric.name} {metric.help}")
        self.lines.append(f"# TYPE {metric.name} {metric.kind}")
        for labels, value in values.items():
            pairs = ",".join(
                f'{name}="{_escape(text)}"' for name, text in zip(metric.labels, labels, strict=True)
            )
            shown = f"{metric.name}{{{pairs}}}" if pairs else metric.name
            self.lines.append(f"{shown} {value:.17g}")

    def bytes(self) -> bytes:
        return ("\n".join(self.lines) + "\n").encode()


def render(ledger: Ledger, relay: RelayFigures) -> bytes:
    """All metrics in Prometheus' text format.

    Raises:
        LedgerUnavailableError: The ledger does not answer.
    """
    from sparkle.tasks.states import TaskMode

    tasks: dict[tuple[str, ...], float] = {}
    for count in ledger.counts(finished=False):
        if count.mode is TaskMode.LONG:
            key = (count.state.value, count.queue)
            tasks[key] = tasks.get(key, 0.0) + count.tasks
    now = ledger.now()
    alive: dict[tuple[str, ...], float] = {}
    for owner in ledger.owners():
        if owner.kind in ("relay", "worker", "beat", "manager"):
            key = (owner.kind, "yes" if owner.alive_until >= now else "no")
            alive[key] = alive.get(key, 0.0) + 1.0
    paces = ledger.paces()
    text = _Text()
    text.metric(TASKS, tasks)
    text.metric(DEAD, _by_name(ledger.dead_letters().items()))
    text.metric(OLDEST_DUE, {(queue,): age for queue, age in ledger.oldest_waiting_age(now).items()})
    queued = ledger.queued().items()
    text.metric(OLDEST_QUEUED, {(queue,): max(now - oldest, 0) / 1e6 for queue, (_, oldest) in queued})
    text.metric(RUNS, _by_name((name, runs) for name, (_, runs) in paces.items()))
    text.metric(EXPECTED, {(name,): ms / 1000 for name, (ms, _) in list(paces.items())[:_MAX_NAMES]})
    text.metric(PROCESSES, alive)
    text.metric(HANDED, {(): relay.handed_over})
    text.metric(MESSAGES, {(): relay.messages})
    text.metric(RUNG_AGAIN, {(): relay.rung_again})
    text.metric(EXPIRED, {(): relay.expired})
    text.metric(BROKER_FAILURES, {(): relay.broker_failures})
    text.metric(BROKER_UP, {(): float(relay.broker_answers)})
    return text.bytes()


def write_file(data_dir: Path, content: bytes) -> None:
    """Put the figures where the gateway finds them; readers see the old file or the new one.

    Raises:
        OSError: The folder cannot be written.
    """
    path = data_dir / METRICS_FILE
    part = path.with_suffix(f".{os.getpid()}")
    part.write_bytes(content)
    part.replace(path)


def read_file(data_dir: Path, now: Callable[[], float]) -> bytes:
    """The figures of this machine's relay; empty if there is none, or none that lives."""
    path = data_dir / METRICS_FILE
    try:
        if now() - path.stat().st_mtime > FRESH_SECONDS:
            return b""
        return path.read_bytes()
    except OSError:
        return b""


def _by_name(counts: Iterable[tuple[str, float]]) -> dict[tuple[str, ...], float]:
    shown: dict[tuple[str, ...], float] = {}
    for name, count in counts:
        key = (name,) if len(shown) < _MAX_NAMES else (_OTHER,)
        shown[key] = shown.get(key, 0.0) + count
    return shown


def _escape(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
