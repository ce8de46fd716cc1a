"""``schedule_long_task``: writes the ledger's row, and touches nothing else. The relay carries it to the broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from sparkle.errors import MissingExtraError
from sparkle.settings import Settings, load_settings
from sparkle.tasks.calls import TaskCall

if TYPE_CHECKING:
    from sqlalchemy import Connection
    from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession
    from sqlalchemy.orm import Session

    from sparkle.tasks.record import TaskRecord
    from sparkle.tasks.tasks import Tasks

_lock = threading.Lock()
_tasks: Tasks | None = None


def configure_tasks(settings: Settings | None = None) -> Tasks:
    """Say which ledger :func:`schedule_long_task` of this process writes to; closes the one before.

    Args:
        settings: ``None`` reads them as every command does: defaults, the file that ``SPARKLE_CONFIG`` names,
            ``SPARKLE_*``.

    Raises:
        ConfigurationError: The settings are wrong.
        MissingExtraError: The extra ``tasks`` is not installed.
        LedgerUnavailableError: The database does not answer.
        LedgerSchemaError: Its tables are missing or of another version.
    """
    global _tasks
    opened = _open(settings)
    with _lock:
        before, _tasks = _tasks, opened
    if before is not None:
        before.close()
    return opened


def close_tasks() -> None:
    """Close what :func:`configure_tasks` or the first call opened. The next call opens it anew."""
    global _tasks
    with _lock:
        before, _tasks = _tasks, None
    if before is not None:
        before.close()


def current_tasks() -> Tasks:
    """The tasks of this process; opened with the settings of its environment at first use. Raises like
    :func:`configure_tasks`.
    """
    global _tasks
    if (known := _tasks) is not None:
        return known
    with _lock:
        if _tasks is None:
            _tasks = _open(None)
        return _tasks


def _open(settings: Settings | None) -> Tasks:
    try:
        from sparkle.tasks.tasks import Tasks
    except ModuleNotFoundError as exc:
        if (exc.name or "").partition(".")[0] != "sqlalchemy":
            raise
        raise MissingExtraError("tasks", "schedule_long_task") from None
    return Tasks.open(settings or load_settings())


def schedule_long_task(
    name: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    user_id: str | None = None,
    priority: int | None = None,
    delay: float | timedelta | None = None,
    at: datetime | None = None,
    idempotency_key: str | None = None,
    unique: bool | str | None = None,
    max_attempts: int | None = None,
    queue: str | None = None,
    trace: str | None = None,
    session: Session | Connection | None = None,
) -> TaskRecord:
    """Have a long task run by a worker: now, later, and again if it fails.

    ::

        record = schedule_long_task("update_mastery", kwargs={"user_id": "alice", "skill": "limits", "correct": True})

    It writes one row into the ledger and returns; the broker may be down. With ``session`` the row belongs to the
    caller's transaction: committed with it, gone if it rolls back.

    Args:
        name: As registered with ``@long_task``.
        args: Positional arguments: what JSON knows, no secrets.
        kwargs: Named arguments: the same.
        user_id: For whom; at most 200 characters.
        priority: 0 to 9, 9 first; ``None``: the task's own.
        delay: Not before so many seconds from now.
        at: Not before then; with a time zone. Give ``delay`` or ``at``, not both.
        idempotency_key: The same key of the same user again returns the task that has it, whatever became of it, as
            long as the ledger keeps it.
        unique: Return the unfinished task with the same name, user and arguments if there is one; a text takes its
            place as what must be the same. ``None``: as the task was registered.
        max_attempts: ``None``: the task's own.
        queue: ``None``: the task's own, else by priority. A name that is not registered here needs one.
        trace: W3C ``traceparent``; ``None``: the caller's.
        session: A SQLAlchemy Session or Connection of the ledger's database. Async ones: see
            :func:`schedule_long_task_async`.

    Returns:
        The task's record: new, or the one that the keys found.

    Raises:
        UnknownTaskError: No task of that name is registered, and no ``queue`` is given.
        TaskArgumentsError: Arguments are not JSON, too large, or hold a secret; or another value is out of range.
        IdempotencyConflictError: The key was used for a task of another name.
        ForeignSessionError: ``session`` belongs to another database than the ledger.
        LedgerUnavailableError: The database does not answer.
    """
    call = TaskCall(
        name,
        args,
        kwargs,
        user_id=user_id,
        priority=priority,
        delay=delay,
        at=at,
        idempotency_key=idempotency_key,
        unique=unique,
        max_attempts=max_attempts,
        queue=queue,
        trace=trace,
    )
    return current_tasks().schedule([call], session=session)[0]


async def schedule_long_task_async(
    name: str,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    *,
    user_id: str | None = None,
    priority: int | None = None,
    delay: float | timedelta | None = None,
    at: datetime | None = None,
    idempotency_key: str | None = None,
    unique: bool | str | None = None,
    max_attempts: int | None = None,
    queue: str | None = None,
    trace: str | None = None,
    session: Session | Connection | AsyncSession | AsyncConnection | None = None,
) -> TaskRecord:
    """:func:`schedule_long_task` without blocking the event loop; ``session`` may be an async one too.

    A plain ``session`` is used here and now, on the event loop's own thread, as its owner uses it.
    """
    call = TaskCall(
        name,
        args,
        kwargs,
        user_id=user_id,
        priority=priority,
        delay=delay,
        at=at,
        idempotency_key=idempotency_key,
        unique=unique,
        max_attempts=max_attempts,
        queue=queue,
        trace=trace,
    )
    # Opening reads files and may create a database.
    tasks = _tasks or await asyncio.to_thread(current_tasks)
    return (await tasks.schedule_async([call], session=session))[0]


def schedule_long_tasks(
    calls: Iterable[TaskCall], *, session: Session | Connection | None = None
) -> list[TaskRecord]:
    """Schedule many in one transaction: all or none. Raises like :func:`schedule_long_task`.

    Returns:
        One record for each call, in the same order.
    """
    return current_tasks().schedule(list(calls), session=session)
