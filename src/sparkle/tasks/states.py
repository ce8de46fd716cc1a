"""The states of a task and the only ways from one to another.

One table for both modes: the tests, the documentation and every statement of the ledger go by it.
"""

from __future__ import annotations

from enum import StrEnum

from sparkle.errors_tasks import TaskStateError


class TaskMode(StrEnum):
    """Where a task lives."""

    SHORT = "short"
    """In the process that started it (``TaskManager``); it ends with that process."""
    LONG = "long"
    """In the ledger (``schedule_long_task``); any worker may run it."""


class TaskState(StrEnum):
    """Where a task stands. The value is what the ledger's ``state`` column holds."""

    WAITING = "waiting"
    """In the ledger; not yet due, or not yet handed to the broker. Short tasks: waits for a slot."""
    QUEUED = "queued"
    """Handed to the broker: its doorbell message is on the way to a worker."""
    RUNNING = "running"
    """A worker holds its lease."""
    RETRYING = "retrying"
    """An attempt failed; the next is due at ``due_at``."""
    SUCCEEDED = "succeeded"
    """Done; its result is in the ledger."""
    FAILED = "failed"
    """A dead letter: no attempt is left. Replayable."""
    CANCELLED = "cancelled"
    """Somebody cancelled it before it was done."""
    INTERRUPTED = "interrupted"
    """A short task whose process died. It cannot be resumed."""

    @property
    def finished(self) -> bool:
        """Whether the task is over (a replay can still begin it anew)."""
        return self in FINISHED


_S = TaskState

FINISHED = frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED, _S.INTERRUPTED})
"""States in which nothing happens any more by itself."""
UNFINISHED = frozenset(_S) - FINISHED
"""States that promise an end."""

TRANSITIONS: dict[TaskMode, dict[TaskState, frozenset[TaskState]]] = {
    TaskMode.LONG: {
        # handed over by the relay | cancelled
        _S.WAITING: frozenset({_S.QUEUED, _S.CANCELLED}),
        # claimed | the broker lost it | cancelled
        _S.QUEUED: frozenset({_S.RUNNING, _S.WAITING, _S.CANCELLED}),
        # done | failed, attempts left | failed for good | released, or its lease ended | cancelled
        _S.RUNNING: frozenset({_S.SUCCEEDED, _S.RETRYING, _S.FAILED, _S.WAITING, _S.CANCELLED}),
        # due again | retried at once by hand | cancelled
        _S.RETRYING: frozenset({_S.QUEUED, _S.WAITING, _S.CANCELLED}),
        _S.SUCCEEDED: frozenset(),
        # replayed
        _S.FAILED: frozenset({_S.WAITING}),
        _S.CANCELLED: frozenset({_S.WAITING}),
        _S.INTERRUPTED: frozenset(),
    },
    TaskMode.SHORT: {
        _S.WAITING: frozenset({_S.RUNNING, _S.CANCELLED, _S.FAILED, _S.INTERRUPTED}),
        _S.QUEUED: frozenset(),
        _S.RUNNING: frozenset({_S.SUCCEEDED, _S.RETRYING, _S.FAILED, _S.CANCELLED, _S.INTERRUPTED}),
        _S.RETRYING: frozenset({_S.RUNNING, _S.CANCELLED, _S.FAILED, _S.INTERRUPTED}),
        _S.SUCCEEDED: frozenset(),
        _S.FAILED: frozenset(),
        _S.CANCELLED: frozenset(),
        # Its process was only silent for too long, and has now said how the task ended.
        _S.INTERRUPTED: frozenset({_S.SUCCEEDED, _S.FAILED, _S.CANCELLED}),
    },
}
"""By mode and state: the states that may follow."""


def may_become(mode: TaskMode, old: TaskState, new: TaskState) -> bool:
    """Whether a task may go from ``old`` to ``new``."""
    return new in TRANSITIONS[mode][old]


def sources(mode: TaskMode, new: TaskState) -> tuple[TaskState, ...]:
    """The states from which a task may go to ``new``, in a fixed order."""
    return tuple(old for old in TaskState if new in TRANSITIONS[mode][old])


def check_transition(mode: TaskMode, old: TaskState, new: TaskState) -> None:
    """Raises TaskStateError if a task may not go from ``old`` to ``new``."""
    if not may_become(mode, old, new):
        raise TaskStateError(f"a {mode} task that is {old} cannot become {new}")
