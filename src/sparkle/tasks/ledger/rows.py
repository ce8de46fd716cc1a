"""Rows of ``sparkle_task`` to records and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from sparkle.tasks.ledger.statements import COLUMNS
from sparkle.tasks.record import NewTask, TaskRecord
from sparkle.tasks.states import TaskMode, TaskState

_MODES = {mode.value: mode for mode in TaskMode}
_STATES = {state.value: state for state in TaskState}
_MODE, _USER, _STATE, _CANCEL = (
    COLUMNS.index(name) for name in ("mode", "user_id", "state", "cancel_requested")
)


def record_of(row: Sequence[Any]) -> TaskRecord:
    """The record in a row whose columns are :data:`~sparkle.tasks.ledger.statements.COLUMNS`."""
    values = list(row)
    values[_MODE] = _MODES[values[_MODE]]
    values[_STATE] = _STATES[values[_STATE]]
    values[_USER] = values[_USER] or None
    values[_CANCEL] = bool(values[_CANCEL])  # SQLite keeps 0 and 1
    return TaskRecord(**dict(zip(COLUMNS, values, strict=True)))


def row_of(record: TaskRecord) -> dict[str, Any]:
    """The row that ``record`` is stored as, by column."""
    row: dict[str, Any] = {name: getattr(record, name) for name in COLUMNS}
    row["mode"], row["state"] = record.mode.value, record.state.value
    row["user_id"] = record.user_id or ""
    return row


def new_record(task: NewTask, id: str, now: int) -> TaskRecord:
    """The record of a long task that was asked for at ``now`` (microseconds since the epoch)."""
    return TaskRecord(
        id=id,
        mode=TaskMode.LONG,
        name=task.name,
        user_id=task.user_id,
        state=TaskState.WAITING,
        queue=task.queue,
        priority=task.priority,
        args=task.args,
        max_attempts=task.max_attempts,
        created_at=now,
        due_at=now if task.due_at is None else task.due_at,
        idempotency_key=task.idempotency_key,
        unique_key=task.unique_key,
        trace=task.trace,
        schedule=task.schedule,
    )


def new_row(record: TaskRecord) -> dict[str, Any]:
    """The columns of a new long task; the others have their defaults."""
    return {
        "id": record.id,
        "mode": "long",
        "name": record.name,
        "user_id": record.user_id or "",
        "state": "waiting",
        "queue": record.queue,
        "priority": record.priority,
        "args": record.args,
        "max_attempts": record.max_attempts,
        "created_at": record.created_at,
        "due_at": record.due_at,
        "idempotency_key": record.idempotency_key,
        "unique_key": record.unique_key,
        "trace": record.trace,
        "schedule": record.schedule,
    }
