"""What Prometheus sees of short tasks. Labels are task names and states, never a user or a task."""

from __future__ import annotations

from dataclasses import dataclass, field

from sparkle.series import Counter, Exposition, Histogram
from sparkle.tasks.states import TaskState

MAX_NAMES = 200
"""Task names that get series of their own; beyond it the label is ``other``."""
_OTHER = "other"
_RUN = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WAIT = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 30.0, 60.0, 300.0)


@dataclass(slots=True)
class NamedSeries:
    """The series of one task name, looked up once."""

    label: str
    seconds: Histogram
    waited: Histogram
    retries: Counter
    finished: dict[TaskState, Counter] = field(default_factory=dict[TaskState, Counter])


class ShortTaskMetrics:
    """The series of one :class:`~sparkle.tasks.manager.TaskManager`. For its event loop's thread.

    Args:
        exposition: Where they are declared, so that they stand in the same scrape as others; ``None`` makes one.
    """

    def __init__(self, exposition: Exposition | None = None) -> None:
        self.exposition = exposition or Exposition()
        counter, histogram, gauge = self.exposition.counter, self.exposition.histogram, self.exposition.gauge
        self._finished = counter(
            "sparkle_short_tasks_total", "Finished in-process tasks by how they ended.", ("name", "state")
        )
        self._seconds = histogram(
            "sparkle_short_task_seconds", "Run time of an attempt of an in-process task.", _RUN, ("name",)
        )
        self._waited = histogram(
            "sparkle_short_task_wait_seconds",
            "Time an in-process task waited for a slot, where it had to.",
            _WAIT,
            ("name",),
        )
        self._retries = counter(
            "sparkle_short_task_retries_total", "Failed attempts that are tried again.", ("name",)
        )
        self.refused = counter(
            "sparkle_short_tasks_refused_total", "Tasks not accepted: queue full or closed.", ("reason",)
        )
        self.unseen = counter(
            "sparkle_short_task_failures_unseen_total", "Failed in-process tasks that nobody awaited."
        )()
        self.lost_records = counter(
            "sparkle_short_task_records_lost_total",
            "Records of in-process tasks that did not reach the ledger.",
        )()
        self.running = gauge(
            "sparkle_short_tasks_running", "In-process tasks running now.", over_workers="livesum"
        )()
        self.waiting = gauge(
            "sparkle_short_tasks_waiting",
            "In-process tasks waiting for a slot or for their next attempt.",
            over_workers="livesum",
        )()
        self._names: dict[str, NamedSeries] = {}
        for reason in ("queue_full", "closed"):
            self.refused(reason)  # a series that exists at 0 can be alerted on

    def of(self, name: str) -> NamedSeries:
        """The series of a task name."""
        series = self._names.get(name)
        if series is None:
            label = name if len(self._names) < MAX_NAMES and name != _OTHER else _OTHER
            series = self._names.get(label) or NamedSeries(
                label, self._seconds(label), self._waited(label), self._retries(label)
            )
            self._names[label] = series
        return series

    def ended(self, series: NamedSeries, state: TaskState) -> None:
        """Count one finished task."""
        counter = series.finished.get(state)
        if counter is None:
            counter = series.finished[state] = self._finished(series.label, state.value)
        counter.inc()
