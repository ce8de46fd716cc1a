"""What somebody asks for, checked and made into what the ledger takes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from sparkle.errors_tasks import TaskArgumentsError, UnknownTaskError
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.arguments import encode_arguments, unique_key
from sparkle.tasks.queues import queue_for
from sparkle.tasks.record import DEFAULT_PRIORITY, NewTask
from sparkle.tasks.registry import LongTask
from sparkle.tasks.trace import current_traceparent

MAX_NAME = 200
"""Longest task name, user id, key and queue name, in characters."""
_FAR_SECONDS = 10 * 366 * 86_400
"""Ten years: a later date is a mistake in the unit."""


@dataclass(frozen=True, slots=True)
class TaskCall:
    """One call of ``schedule_long_task``, for batches. The fields are its parameters."""

    name: str
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] | None = None
    user_id: str | None = None
    priority: int | None = None
    delay: float | timedelta | None = None
    at: datetime | None = None
    idempotency_key: str | None = None
    unique: bool | str | None = None
    max_attempts: int | None = None
    queue: str | None = None
    trace: str | None = None
    schedule: str | None = None
    """``NAME@TICK`` of the schedule that makes the call; unique. For the beat."""


def new_task(call: TaskCall, task: LongTask[..., Any] | None, settings: TasksSettings, now: int) -> NewTask:
    """What the ledger takes.

    Args:
        call: What was asked for.
        task: The registered task of that name, if this process knows it.
        settings: Limits and defaults.
        now: Microseconds since the epoch.

    Raises:
        UnknownTaskError: The task is not known, and the call names no queue.
        TaskArgumentsError: A value is out of range, or the arguments cannot be stored.
    """
    _check_text("name", call.name, required=True)
    for field in ("user_id", "idempotency_key", "queue", "trace", "schedule"):
        _check_text(field, getattr(call, field))
    if task is None and call.queue is None:
        raise UnknownTaskError(
            f"no task {call.name!r} is registered; name its module in SPARKLE_TASKS__MODULES, or give queue=..."
        )
    priority = call.priority
    if priority is None:
        priority = DEFAULT_PRIORITY if task is None else task.priority
    _check_range("priority", priority, 0, 9)
    max_attempts = call.max_attempts
    if max_attempts is None:
        max_attempts = settings.max_attempts if task is None else task.max_attempts
    _check_range("max_attempts", max_attempts, 1, 1_000)
    queue = call.queue or (task and task.queue) or queue_for(priority, is_async=bool(task and task.is_async))
    arguments = encode_arguments(call.args, call.kwargs or {}, max_bytes=settings.max_args_bytes)
    return NewTask(
        name=call.name,
        queue=queue,
        args=arguments,
        user_id=call.user_id or None,
        priority=priority,
        max_attempts=max_attempts,
        due_at=_due_at(call, now),
        idempotency_key=call.idempotency_key,
        unique_key=_unique_key(call, task, arguments),
        trace=call.trace or current_traceparent(),
        schedule=call.schedule,
    )


def _due_at(call: TaskCall, now: int) -> int | None:
    if call.at is not None:
        if call.delay is not None:
            raise TaskArgumentsError("give delay or at, not both", param="at")
        if call.at.tzinfo is None:
            raise TaskArgumentsError("at needs a time zone, e.g. datetime.now(UTC)", param="at")
        seconds = call.at.timestamp() - now / 1_000_000
        due_at = round(call.at.timestamp() * 1_000_000)
    elif call.delay is not None:
        seconds = call.delay.total_seconds() if isinstance(call.delay, timedelta) else float(call.delay)
        if math.isnan(seconds) or seconds < 0:
            raise TaskArgumentsError("delay must not be negative", param="delay")
        due_at = now + int(min(seconds, _FAR_SECONDS + 1) * 1_000_000)
    else:
        return None
    if seconds > _FAR_SECONDS:
        raise TaskArgumentsError("a task can wait ten years at most", param="at")
    # What lies in the past is due now; it does not jump the queue of those that have waited longer.
    return max(due_at, now)


def _unique_key(call: TaskCall, task: LongTask[..., Any] | None, arguments: str) -> str | None:
    unique = call.unique
    if unique is None:
        unique = task is not None and task.unique
    if isinstance(unique, str):
        _check_text("unique", unique, required=True)
        return f"{call.name}:{unique}"
    return unique_key(call.name, arguments, call.user_id) if unique else None


def _check_text(field: str, value: object, *, required: bool = False) -> None:
    if value is None and not required:
        return
    if not isinstance(value, str) or len(value) > MAX_NAME or (required and not value):
        raise TaskArgumentsError(f"{field} must be a text of at most {MAX_NAME} characters", param=field)
    if not value.isprintable():
        raise TaskArgumentsError(f"{field} must hold printable characters only", param=field)
    if field == "idempotency_key" and not value:
        raise TaskArgumentsError("idempotency_key must not be empty", param=field)


def _check_range(field: str, value: int, least: int, most: int) -> None:
    if not least <= value <= most:
        raise TaskArgumentsError(f"{field} must be {least} to {most}", param=field)
