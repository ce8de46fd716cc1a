"""Tasks as people read them: one row, the whole record, the state of everything at a glance."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from sparkle.errors import InvalidRequestError
from sparkle.tasks.record import Owner, TaskFilter, TaskRecord
from sparkle.tasks.states import UNFINISHED, TaskMode, TaskState

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

COLUMNS = ("id", "name", "user", "mode", "state", "attempt", "created", "took", "progress", "error")
"""What a list shows in a pipe and on a wide terminal."""
NARROW_COLUMNS = ("id", "name", "state", "took", "error")
"""What it shows where ``COLUMNS`` would not fit."""
NARROW = 120
"""Fewer characters than these do not hold ``COLUMNS`` without breaking every value."""
PROCESSES = ("relay", "worker", "beat", "manager")
"""Kinds of processes that announce themselves; other kinds are notes that processes leave for each other."""
_AGE = re.compile(r"([0-9]{1,9})\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}
_MICROSECONDS = 1_000_000


def parse_since(text: str, now: int, *, param: str = "since") -> int:
    """A moment in microseconds since the epoch.

    Args:
        text: An age such as ``90s``, ``15m``, ``2h``, ``7d`` or ``1w``, or a date or time such as ``2027-01-31`` or
            ``2027-01-31T08:00+08:00`` (UTC where it says nothing else).
        now: Microseconds since the epoch.
        param: What the error calls it.

    Raises:
        InvalidRequestError: It is neither.
    """
    if matched := _AGE.fullmatch(text.strip().lower()):
        return now - int(matched[1]) * _SECONDS[matched[2]] * _MICROSECONDS
    try:
        moment = datetime.fromisoformat(text.strip())
    except ValueError:
        raise InvalidRequestError(
            f"{param} must be an age such as 15m, 2h or 7d, or a time such as 2027-01-31T08:00", param=param
        ) from None
    return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * _MICROSECONDS)


def parse_states(texts: tuple[str, ...]) -> frozenset[TaskState]:
    """States by name; one text may name several, with commas.

    Raises:
        InvalidRequestError: There is no such state.
    """
    names = [name.strip().lower() for text in texts for name in text.split(",") if name.strip()]
    try:
        return frozenset(TaskState(name) for name in names)
    except ValueError:
        raise InvalidRequestError(
            f"state must be one of {', '.join(TaskState)}; several with commas", param="state"
        ) from None


def task_row(record: TaskRecord, now: int) -> dict[str, object]:
    """A task in a list: no arguments, no result, no message."""
    return {
        "id": record.id,
        "name": record.name,
        "user": record.user_id,
        "mode": record.mode.value,
        "state": "cancelling" if _is_cancelling(record) else record.state.value,
        "attempt": f"{record.attempt}/{record.max_attempts}",
        "created": moment(record.created_at),
        "took": duration(_took(record, now)),
        "progress": _progress(record),
        "queue": record.queue or None,
        "priority": record.priority,
        "error": None if record.state is TaskState.SUCCEEDED else record.error_type,
    }


def task_details(record: TaskRecord) -> dict[str, object]:
    """Everything about a task, as JSON has it. Times are RFC 3339 in UTC."""
    args, kwargs = record.arguments
    # What went wrong before it succeeded is history, and must not be read as its outcome.
    over = record.state is TaskState.SUCCEEDED
    earlier = f"{record.error_type}: {record.error_message}" if over and record.error_type else None
    return {
        "id": record.id,
        "name": record.name,
        "mode": record.mode.value,
        "state": record.state.value,
        "user": record.user_id,
        "queue": record.queue or None,
        "priority": record.priority,
        "args": args,
        "kwargs": kwargs,
        "result": record.value,
        "error_type": None if over else record.error_type,
        "error_message": None if over else record.error_message,
        "earlier_error": earlier,
        "attempt": record.attempt,
        "max_attempts": record.max_attempts,
        "crashes": record.crashes,
        "created": moment(record.created_at),
        "due": moment(record.due_at),
        "queued": moment(record.queued_at),
        "started": moment(record.started_at),
        "finished": moment(record.finished_at),
        "worker": record.lease_owner,
        "leased_until": moment(record.lease_until),
        "fence": record.fence,
        "progress": record.progress,
        "progress_note": record.progress_note or None,
        "cancel_requested": record.cancel_requested,
        "idempotency_key": record.idempotency_key,
        "unique_key": record.unique_key,
        "trace": record.trace,
        "schedule": record.schedule,
    }


def moment(microseconds: int | None) -> str | None:
    """RFC 3339 in UTC, to the millisecond."""
    if microseconds is None:
        return None
    when = datetime.fromtimestamp(microseconds / _MICROSECONDS, UTC)
    return when.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def duration(microseconds: int | None) -> str | None:
    """``12 ms``, ``3.4 s``, ``2 m 05 s``, ``1 h 30 m``, ``3 d 4 h``."""
    if microseconds is None:
        return None
    seconds = max(0, microseconds) / _MICROSECONDS
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = int(seconds)
    if whole < 3_600:
        return f"{whole // 60} m {whole % 60:02} s"
    if whole < 86_400:
        return f"{whole // 3_600} h {whole % 3_600 // 60:02} m"
    return f"{whole // 86_400} d {whole % 86_400 // 3_600} h"


@dataclass(frozen=True, slots=True)
class QueueView:
    """One queue of long tasks."""

    queue: str
    waiting: int
    """In the ledger, due or not, retries included."""
    queued: int
    """Handed to the broker."""
    running: int
    oldest_seconds: float
    """Since when the oldest task that nobody has begun has been due."""


@dataclass(frozen=True, slots=True)
class Overview:
    """How things stand."""

    at: int
    """Microseconds since the epoch."""
    states: dict[str, int]
    """Tasks by state, of both modes."""
    queues: tuple[QueueView, ...]
    running: tuple[TaskRecord, ...]
    processes: tuple[Owner, ...]

    @property
    def unfinished(self) -> int:
        """Tasks that are not over."""
        return sum(count for state, count in self.states.items() if TaskState(state) in UNFINISHED)

    def as_json(self) -> dict[str, Any]:
        """All of it, for machines."""
        return {
            "at": moment(self.at),
            "unfinished": self.unfinished,
            "states": self.states,
            "queues": [
                {
                    "queue": queue.queue,
                    "waiting": queue.waiting,
                    "queued": queue.queued,
                    "running": queue.running,
                    "oldest_seconds": round(queue.oldest_seconds, 3),
                }
                for queue in self.queues
            ],
            "running": [task_row(record, self.at) for record in self.running],
            "processes": [process_row(owner, self.at) for owner in self.processes],
        }


def process_row(owner: Owner, now: int) -> dict[str, object]:
    """A relay, worker, beat or task manager."""
    return {
        "id": owner.id,
        "kind": owner.kind,
        "alive": owner.alive_until >= now,
        "up": duration(now - owner.started_at),
        "seen": moment(owner.seen_at),
        "host": owner.info.get("host"),
        "pid": owner.info.get("pid"),
    }


def overview(ledger: Ledger, where: TaskFilter, *, running: int, finished: bool = True) -> Overview:
    """Look at the whole ledger.

    Args:
        ledger: Where to look.
        where: Which tasks the counts and the list of running ones are about; only name, mode and queue narrow the
            counts.
        running: Longest list of running tasks.
        finished: Count finished tasks too; that takes 0.3 s for a million of them.

    Raises:
        LedgerUnavailableError: The ledger does not answer.
    """
    now = ledger.now()
    states: defaultdict[str, int] = defaultdict(int)
    by_queue: defaultdict[str, defaultdict[str, int]] = defaultdict(lambda: defaultdict(int))
    for count in ledger.counts(finished=finished):
        if (
            (where.name is not None and count.name != where.name)
            or (where.mode is not None and count.mode is not where.mode)
            or (where.queue is not None and count.queue != where.queue)
        ):
            continue
        states[count.state.value] += count.tasks
        if count.mode is TaskMode.LONG and count.state in UNFINISHED:
            by_queue[count.queue][count.state.value] += count.tasks
    oldest = ledger.oldest_waiting_age(now)
    active = TaskFilter(
        user_id=where.user_id,
        name=where.name,
        mode=where.mode,
        queue=where.queue,
        states=frozenset({TaskState.RUNNING}),
    )
    queues = tuple(
        QueueView(
            name,
            by_queue[name]["waiting"] + by_queue[name]["retrying"],
            by_queue[name]["queued"],
            by_queue[name]["running"],
            oldest.get(name, 0.0),
        )
        for name in sorted(by_queue)
    )
    return Overview(
        now,
        {state.value: states[state.value] for state in TaskState if states[state.value]},
        queues,
        ledger.find(active, limit=running).records,
        tuple(one for one in ledger.owners() if one.kind in PROCESSES and one.alive_until >= now),
    )


def _is_cancelling(record: TaskRecord) -> bool:
    return record.cancel_requested and record.state is TaskState.RUNNING


def _took(record: TaskRecord, now: int) -> int | None:
    if record.started_at is None:
        return None
    if record.finished_at is not None:
        return record.finished_at - record.started_at
    return now - record.started_at if record.state is TaskState.RUNNING else None


def _progress(record: TaskRecord) -> str | None:
    if not record.progress and not record.progress_note:
        return None
    return f"{record.progress:.0%} {record.progress_note}".strip()
