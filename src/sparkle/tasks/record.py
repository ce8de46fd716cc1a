"""What crosses between the ledger and everybody else: frozen, slotted, named."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

import msgspec

from sparkle.tasks.states import TaskMode, TaskState

NO_ARGS = '{"args":[],"kwargs":{}}'
"""Stored arguments of a task that takes none."""
DEFAULT_PRIORITY = 5
ERROR_MESSAGE_CHARACTERS = 500
"""Longest error message that is kept."""
_LONGEST_READ = 20_000


def _moment(microseconds: int | None) -> datetime | None:
    return None if microseconds is None else datetime.fromtimestamp(microseconds / 1_000_000, UTC)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRecord:
    """One task, short or long, as the ledger knows it. Times are integer microseconds since the epoch, UTC."""

    id: str
    """UUID version 7, 36 characters: sorts by creation. Also the idempotency token of its effects outside."""
    mode: TaskMode
    name: str
    user_id: str | None = None
    """For whom it runs; ``None``: nobody in particular."""
    state: TaskState
    queue: str = ""
    """Queue of the broker; empty for short tasks."""
    priority: int = DEFAULT_PRIORITY
    """0 to 9; 9 first."""
    args: str = NO_ARGS
    """JSON ``{"args": [...], "kwargs": {...}}``."""
    result: str | None = None
    """JSON of what the task returned; ``None`` until it succeeded."""
    error_type: str | None = None
    """Class name of the last failure."""
    error_message: str | None = None
    """Its message, without secrets, at most 500 characters."""
    attempt: int = 0
    """Attempts begun; one that a shutdown or a dead worker interrupted does not count."""
    max_attempts: int = 1
    crashes: int = 0
    """How often its worker died while running it."""
    created_at: int
    due_at: int
    """Not handed out before."""
    queued_at: int | None = None
    started_at: int | None = None
    finished_at: int | None = None
    lease_owner: str | None = None
    """The worker child (or, for short tasks, the process) that has it."""
    lease_until: int | None = None
    fence: int = 0
    """Fencing token: one more at each claim, so that a late worker is recognised."""
    progress: float = 0.0
    """0 to 1, as the task reported it."""
    progress_note: str = ""
    cancel_requested: bool = False
    idempotency_key: str | None = None
    unique_key: str | None = None
    trace: str | None = None
    """W3C ``traceparent`` of whoever scheduled it."""
    schedule: str | None = None
    """``NAME@TICK`` of the schedule entry that made it; unique."""

    @property
    def created(self) -> datetime:
        """When it was asked for."""
        return cast("datetime", _moment(self.created_at))

    @property
    def due(self) -> datetime:
        """Before when it is not handed out."""
        return cast("datetime", _moment(self.due_at))

    @property
    def started(self) -> datetime | None:
        """When its latest attempt began."""
        return _moment(self.started_at)

    @property
    def finished(self) -> datetime | None:
        """When it ended."""
        return _moment(self.finished_at)

    @property
    def arguments(self) -> tuple[list[Any], dict[str, Any]]:
        """Positional and named arguments."""
        decoded = msgspec.json.decode(self.args, type=_Arguments)
        return decoded.args, decoded.kwargs

    @property
    def value(self) -> Any:
        """What the task returned, decoded; ``None`` also where it has not succeeded."""
        return None if self.result is None else msgspec.json.decode(self.result)


class _Arguments(msgspec.Struct):
    args: list[Any]
    kwargs: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class NewTask:
    """A long task to be added. The ledger gives it its id and ``created_at``."""

    name: str
    queue: str
    args: str = NO_ARGS
    """JSON ``{"args": [...], "kwargs": {...}}``, already checked (see ``schedule_long_task``)."""
    user_id: str | None = None
    priority: int = DEFAULT_PRIORITY
    max_attempts: int = 5
    due_at: int | None = None
    """Microseconds since the epoch; ``None``: now."""
    idempotency_key: str | None = None
    """The same key of the same user again returns the task that has it, in whatever state."""
    unique_key: str | None = None
    """The same key again returns the task that has it as long as that one is unfinished."""
    trace: str | None = None
    schedule: str | None = None
    """``NAME@TICK``; the same again returns the task that has it."""


@dataclass(frozen=True, slots=True)
class Handed:
    """A task that the relay has to ring for: it is QUEUED now."""

    id: str
    name: str
    queue: str
    priority: int
    fence: int
    expected_ms: float | None
    """How long tasks of this name took lately; ``None``: not known yet."""


@dataclass(frozen=True, slots=True)
class ByName:
    """Some of a queue's tasks."""

    names: frozenset[str]
    only: bool
    """True: those with one of these names; false: all others."""


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to run one attempt. Every statement about the attempt is checked against ``fence``."""

    id: str
    fence: int
    record: TaskRecord
    """The row as it is now: RUNNING, ``attempt`` counts this one."""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """What a worker learns when it extends its leases."""

    lost: tuple[str, ...] = ()
    """Ids that are another's by now, or over: stop, and write nothing."""
    cancel: tuple[str, ...] = ()
    """Ids that somebody wants to be cancelled."""


@dataclass(frozen=True, slots=True)
class Failure:
    """Why an attempt failed, fit to be stored: masked and bounded."""

    error_type: str
    error_message: str

    @classmethod
    def of(cls, error: BaseException) -> Failure:
        """The failure that ``error`` is. Secrets in its message are replaced, its length is bounded."""
        from sparkle.masking_secrets import mask_secrets  # reads its patterns at first use

        # Cut before it is masked, far behind what is kept: a message of megabytes is not searched through.
        message = mask_secrets(str(error)[:_LONGEST_READ])
        if len(message) > ERROR_MESSAGE_CHARACTERS:
            message = message[: ERROR_MESSAGE_CHARACTERS - 1] + "…"
        # PostgreSQL takes no NUL in a text.
        return cls(type(error).__name__, message.replace("\x00", "\\0"))


@dataclass(frozen=True, slots=True)
class Progress:
    """What a running task reported."""

    claim: Claim
    progress: float
    note: str | None = None
    """``None`` keeps the one before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFilter:
    """Which tasks to list; what is not given does not matter."""

    user_id: str | None = None
    states: frozenset[TaskState] = frozenset()
    name: str | None = None
    queue: str | None = None
    mode: TaskMode | None = None
    created_from: int | None = None
    """Microseconds since the epoch, included."""
    created_before: int | None = None
    """Microseconds since the epoch, excluded."""


@dataclass(frozen=True, slots=True)
class Page:
    """Some of the tasks, newest first."""

    records: tuple[TaskRecord, ...]
    next_cursor: str | None
    """Pass it on for the next page; ``None``: this was the last one."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many tasks of one kind there are."""

    mode: TaskMode
    state: TaskState
    queue: str
    name: str
    tasks: int


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that said it is alive: worker child, relay, beat, task manager."""

    id: str
    kind: str
    started_at: int
    seen_at: int
    alive_until: int
    """Microseconds since the epoch; past it the process counts as dead."""
    info: Mapping[str, Any] = field(default_factory=dict[str, Any])
    """JSON-able facts: host, pid, version, what it runs."""


@dataclass(frozen=True, slots=True)
class LedgerSize:
    """How large the ledger is."""

    tasks: int
    """Rows; for PostgreSQL its own estimate."""
    bytes: int
    """Of the tables and indexes on disk, the write-ahead file of SQLite included."""
    free_bytes: int
    """Of these, room that deleted rows left and new ones will take (SQLite; 0 for PostgreSQL)."""
