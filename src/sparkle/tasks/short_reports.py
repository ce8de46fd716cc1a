"""What a task manager says about itself."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain, islice
from typing import TYPE_CHECKING, Literal

from sparkle.settings_tasks import ShortTasksSettings
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.states import TaskState

if TYPE_CHECKING:
    from sparkle.tasks.short_engine import ShortEngine

Status = Literal["ok", "busy", "full", "closing", "closed"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ManagerHealth:
    """How a :class:`~sparkle.tasks.manager.TaskManager` is."""

    status: Status
    """``busy``: all slots are taken; ``full``: new tasks are refused; ``closing``: it drains."""
    running: int
    waiting: int
    """Tasks that wait for a slot."""
    retrying: int
    """Tasks that wait for their next attempt."""
    concurrency: int
    queue: int
    oldest_waiting_seconds: float
    """How long the first of those who wait has waited; 0 where nobody does."""
    succeeded: int
    """Since the manager was opened, like the three after it."""
    failed: int
    cancelled: int
    refused: int
    history: int
    """Finished tasks still remembered."""
    unwritten: int
    """Records on their way to the ledger."""
    ledger_error: str | None = None
    """Class of the error with which the latest write failed; ``None``: it worked, or there is no ledger."""

    @property
    def healthy(self) -> bool:
        """Whether tasks are taken and recorded."""
        return self.status in ("ok", "busy") and self.ledger_error is None


@dataclass(frozen=True, slots=True, kw_only=True)
class DrainReport:
    """What became of the tasks that were unfinished when the manager was told to end."""

    finished: int
    """Ended by themselves, well or badly."""
    cancelled: tuple[TaskRecord, ...] = ()
    """Cancelled because the deadline came."""
    stuck: tuple[TaskRecord, ...] = ()
    """Did not end although they were cancelled; given up as INTERRUPTED."""

    @property
    def clean(self) -> bool:
        """Whether nothing was cut off."""
        return not self.cancelled and not self.stuck


def health_of(
    engine: ShortEngine,
    settings: ShortTasksSettings,
    phase: Literal["ok", "closing", "closed"],
    now: float,
    refused: int,
) -> ManagerHealth:
    """How an engine is at ``now``, seconds since the epoch."""
    room, writer = engine.room, engine.writer
    status: Status = phase
    if phase == "ok" and room.running >= settings.concurrency:
        status = "full" if room.waiting + engine.retrying >= settings.queue else "busy"
    oldest = min((handle.due for handle in room.oldest()), default=now)
    return ManagerHealth(
        status=status,
        running=room.running,
        waiting=room.waiting,
        retrying=engine.retrying,
        concurrency=settings.concurrency,
        queue=settings.queue,
        oldest_waiting_seconds=max(0.0, now - oldest),
        succeeded=engine.ended[TaskState.SUCCEEDED],
        failed=engine.ended[TaskState.FAILED],
        cancelled=engine.ended[TaskState.CANCELLED] + engine.ended[TaskState.INTERRUPTED],
        refused=refused,
        history=len(engine.history),
        unwritten=writer.waiting if writer is not None else 0,
        ledger_error=writer.error if writer is not None else None,
    )


def list_tasks(
    engine: ShortEngine,
    user_id: str | None,
    task_name: str | None,
    states: frozenset[TaskState],
    limit: int,
) -> list[TaskRecord]:
    """Records of an engine: unfinished ones first, the newest first; ``None`` and empty sets match everything."""
    unfinished = (handle.record for handle in reversed(engine.live.values()))
    everything: Iterator[TaskRecord] = chain(unfinished, engine.history.newest_first())
    wanted = (
        record
        for record in everything
        if (user_id is None or record.user_id == user_id)
        and (task_name is None or record.name == task_name)
        and (not states or record.state in states)
    )
    return list(islice(wanted, limit))
