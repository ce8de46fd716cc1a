"""The errors of the ledger of background tasks; they hang in the tree of :mod:`sparkle.errors`.

::

    SparkleError
    ├── ConfigurationError
    │   ├── UnknownTaskError        no task of that name is registered
    │   ├── LedgerSchemaError       the tasks' tables are missing or of another version
    │   └── ForeignSessionError     the caller's session belongs to another database than the ledger
    ├── InvalidRequestError
    │   └── TaskArgumentsError      400: arguments are no JSON, too large or hold a secret
    ├── NotFoundError
    │   └── TaskNotFoundError       404
    ├── TaskError
    │   ├── TaskStateError          409: not possible in the state the task is in
    │   ├── TaskManagerClosedError  503: the task manager of this process is closed or not open yet
    │   ├── LeaseLostError          409: another worker owns the task now; the transaction rolls back
    │   └── TaskFailedError         500: it ended in the dead letter
    ├── RateLimitError
    │   └── TaskQueueFullError      429: as many tasks wait as may wait
    └── StoreUnavailableError
        └── LedgerUnavailableError  503: the tasks' database does not answer
"""

from __future__ import annotations

from sparkle.errors import (
    ConfigurationError,
    InvalidRequestError,
    NotFoundError,
    RateLimitError,
    StoreUnavailableError,
    TaskError,
)


class UnknownTaskError(ConfigurationError):
    """No task of that name is registered."""

    code = "unknown_task"


class LedgerSchemaError(ConfigurationError):
    """The tasks' tables are missing or of another version; `sparkle tasks migrate` brings them up to date."""

    code = "ledger_schema"


class ForeignSessionError(ConfigurationError):
    """The session belongs to another database than the ledger; leave it out or set SPARKLE_TASKS__DATABASE_URL."""

    code = "foreign_session"


class TaskArgumentsError(InvalidRequestError):
    """The task's arguments cannot be stored."""

    code = "invalid_task_arguments"


class TaskNotFoundError(NotFoundError):
    """There is no such task."""

    code = "task_not_found"


class TaskStateError(TaskError):
    """Not possible in the state the task is in."""

    http_status = 409
    grpc_status = "FAILED_PRECONDITION"
    code = "task_state"
    should_retry = False


class TaskManagerClosedError(TaskError):
    """The task manager takes no tasks: it is closed, closing, or not open yet (`async with TaskManager(...)`)."""

    http_status = 503
    grpc_status = "UNAVAILABLE"
    code = "task_manager_closed"


class LeaseLostError(TaskError):
    """Another worker owns this task now; what this attempt wrote is rolled back."""

    http_status = 409
    grpc_status = "ABORTED"
    code = "lease_lost"
    should_retry = False


class TaskFailedError(TaskError):
    """The task failed for good and lies in the dead letter; `sparkle tasks replay` runs it again."""

    code = "task_failed"
    should_retry = False


class TaskQueueFullError(RateLimitError):
    """As many tasks wait as may wait."""

    code = "task_queue_full"


class LedgerUnavailableError(StoreUnavailableError):
    """The tasks' database does not answer."""

    code = "ledger_unavailable"
