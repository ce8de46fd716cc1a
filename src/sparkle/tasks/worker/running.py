"""One attempt of one task while a worker child runs it."""

from __future__ import annotations

from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

import msgspec

from sparkle.errors import TaskError, TaskTimeoutError
from sparkle.tasks.context import TaskContext
from sparkle.tasks.record import Claim, Progress
from sparkle.tasks.registry import LongTask

if TYPE_CHECKING:
    from sqlalchemy import Connection

    from sparkle.tasks.ledger import Ledger


_PARENT_WAITS_SECONDS = 2.0
"""The child tells the ledger first and then ends; the parent kills one that cannot, because C code holds its lock."""


class Reason(StrEnum):
    """Why a running task is interrupted."""

    TIMEOUT = "timeout"
    CANCEL = "cancel"
    RELEASE = "release"
    """The worker stops; the task goes back to the ledger."""
    LOST = "lost"
    """The lease is another's."""


class HandedBack(BaseException):
    """Raised inside a plain task whose worker stops or has lost the lease.

    No ``Exception``, because a task that swallows every error must not swallow this one.
    """


class ResultError(TaskError):
    """What the task returned cannot be stored."""

    code = "task_result"


@dataclass(slots=True)
class Running:
    """An attempt: its claim, its function, what it said and why it is being stopped. Also its own runtime."""

    claim: Claim
    task: LongTask[..., Any]
    ledger: Ledger
    soft_seconds: float
    hard_seconds: float
    """After the soft limit."""
    started: float = 0.0
    """Monotonic."""
    reason: Reason | None = None
    interrupted_at: float = 0.0
    """Monotonic; when it was last told to stop."""
    progress: tuple[float, str | None] | None = None
    """Reported and not yet written."""
    stack: ExitStack = field(default_factory=ExitStack)
    """Holds the transaction that completes the task, once it is open."""
    context: TaskContext = field(init=False)

    def __post_init__(self) -> None:
        self.context = TaskContext(self.claim.record, self, is_async=self.task.is_async)

    def open_transaction(self) -> Connection:
        """Begin the transaction that will complete the task."""
        return self.stack.enter_context(self.ledger.write())

    def open_reading(self) -> AbstractContextManager[Connection]:
        """A read transaction of the ledger's database."""
        return self.ledger.read()

    def note_progress(self, progress: float, note: str | None) -> None:
        """Keep this progress for the next heartbeat."""
        self.progress = (progress, note if note is not None or self.progress is None else self.progress[1])

    def cancel_requested(self) -> bool:
        """Whether somebody cancelled the task."""
        return self.reason is Reason.CANCEL

    def take_progress(self) -> Progress | None:
        """What was reported since the last call."""
        said, self.progress = self.progress, None
        return None if said is None else Progress(self.claim, *said)

    @property
    def key(self) -> tuple[str, int]:
        """What tells this attempt from every other, also from a later one of the same task in the same child."""
        return self.claim.id, self.claim.fence

    def too_long(self) -> TaskTimeoutError:
        """The error of a task that has passed its soft limit."""
        return TaskTimeoutError(
            f"the task ran longer than its {self.soft_seconds:g} s (timeout= of its @long_task)"
        )

    @property
    def soft_deadline(self) -> float:
        """Monotonic time from which it is told to end; never, before it started."""
        return self.started + self.soft_seconds if self.started else float("inf")

    @property
    def kill_at(self) -> float:
        """Monotonic time from which its child ends itself because of it."""
        return self.soft_deadline + self.hard_seconds

    @property
    def killed_at(self) -> float:
        """Monotonic time from which the parent kills the child, should it have been unable to end itself."""
        return self.kill_at + _PARENT_WAITS_SECONDS

    def never_ended(self) -> TaskTimeoutError:
        """The error of a task that did not end after its limit either."""
        return TaskTimeoutError(
            f"the task did not end within {self.hard_seconds:g} s after its limit of {self.soft_seconds:g} s; the "
            "process that ran it was killed"
        )


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an attempt ended, before the ledger knows. Exactly one of the fields beside ``running`` says it."""

    running: Running
    result: str | None = None
    """JSON; with neither ``error`` nor ``reason``, it succeeded."""
    error: BaseException | None = None
    reason: Reason | None = None
    """CANCEL, RELEASE or LOST: it was stopped. A task that ran too long has an error instead."""
    seconds: float = 0.0
    """How long the function ran."""


_JSON = msgspec.json.Encoder()


def encode_result(value: Any, limit: int) -> str | None:
    """``value`` as JSON for the ledger; ``None`` stays ``None``.

    Raises:
        ResultError: It is no JSON, or longer than ``limit`` bytes.
    """
    if value is None:
        return None
    try:
        encoded = _JSON.encode(value)
    except (TypeError, ValueError, OverflowError, RecursionError) as exc:
        raise ResultError(
            f"a {type(value).__name__} cannot be stored as a task's result ({type(exc).__name__}); return what JSON "
            "can hold"
        ) from None
    if len(encoded) > limit:
        raise ResultError(
            f"the result has {len(encoded)} bytes, more than the {limit} of SPARKLE_TASKS__MAX_RESULT_BYTES; store it "
            "elsewhere and return where"
        )
    return encoded.decode()
