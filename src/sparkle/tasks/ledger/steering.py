"""What people do to tasks: cancel, replay, retry."""

from __future__ import annotations

from sqlalchemy.exc import IntegrityError

from sparkle.errors_tasks import TaskNotFoundError, TaskStateError
from sparkle.tasks.ledger.base import LedgerBase
from sparkle.tasks.ledger.rows import record_of
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.states import TaskMode, TaskState

_ROUNDS = 5
"""How often a cancellation looks again at a task that changed its state in between."""


class Steering(LedgerBase):
    """``cancel``, ``replay``, ``retry``, ``get``."""

    def get(self, id: str) -> TaskRecord:
        """The task. Raises TaskNotFoundError."""
        with self.read() as connection:
            row = self._run(connection, "get", id=id).one_or_none()
        if row is None:
            raise TaskNotFoundError(f"there is no task {id!r}")
        return record_of(row)

    def cancel(self, id: str) -> TaskRecord:
        """Cancel a task: at once where it waits; where it runs, its worker learns it with the next heartbeat.

        Cancelling a cancelled task changes nothing.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is over.
        """
        for _ in range(_ROUNDS):
            with self._writing() as connection:
                row = (
                    self._run(connection, "cancel_waiting", id=id, now=self.now()).one_or_none()
                    or self._run(connection, "cancel_running", id=id).one_or_none()
                )
            if row is not None:
                return record_of(row)
            record = self.get(id)
            if record.state is TaskState.CANCELLED:
                return record
            if record.state.finished:
                raise TaskStateError(f"task {id} is {record.state} and cannot be cancelled")
        raise TaskStateError(f"task {id} changes its state too quickly to be cancelled; try again")

    def cancel_requests(self, owner: str) -> list[str]:
        """Ids of the unfinished short tasks of ``owner`` that somebody wants cancelled."""
        with self.read() as connection:
            return list(self._run(connection, "cancel_requests", owner=owner).scalars())

    def replay(self, id: str) -> TaskRecord:
        """Begin a dead letter or a cancelled task anew, with all its attempts.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It is neither failed nor cancelled; or short; or another one with its unique key is under
                way.
        """
        return self._restart(id, "replay", "only failed and cancelled tasks can be replayed")

    def retry(self, id: str) -> TaskRecord:
        """Make a task that waits for its time due now.

        Raises:
            TaskNotFoundError: There is no such task.
            TaskStateError: It does not wait; or it is short.
        """
        return self._restart(id, "retry", "only waiting and retrying tasks can be made due")

    def _restart(self, id: str, statement: str, rule: str) -> TaskRecord:
        row = None
        with self._writing() as connection:
            try:
                row = self._run(connection, statement, id=id, now=self.now()).one_or_none()
            except IntegrityError:
                raise TaskStateError(
                    f"task {id} cannot be replayed: another one with the same unique key is under way"
                ) from None
        if row is not None:
            return record_of(row)
        record = self.get(id)
        if record.mode is TaskMode.SHORT:
            raise TaskStateError(f"task {id} lived in a process of its own kind (short); start it anew there")
        raise TaskStateError(f"task {id} is {record.state}; {rule}")
