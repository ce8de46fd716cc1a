"""The one error tree.

Everything Sparkle raises on purpose is a :class:`SparkleError`. What a door must know to answer (HTTP status,
gRPC status, OpenAI ``type`` and ``code``, whether a retry can help) lives on the class, so that no door keeps
a table.

::

    SparkleError
    ├── ConfigurationError            settings, policy, rules or a missing extra
    │   ├── PolicyError
    │   └── MissingExtraError
    ├── InvalidRequestError           400: the caller's request is malformed
    │   ├── RequestTooLargeError      413
    │   ├── HeadersTooLargeError      431
    │   ├── IdempotencyConflictError  422
    │   └── DatasetError              a file of labelled texts, scores or floors (command line only)
    ├── AuthenticationError           401
    ├── PermissionDeniedError         403
    ├── NotFoundError                 404
    ├── InputBlockedError             400 content_filter: a guard refused the input
    ├── OutputBlockedError            200 content_filter (no HTTP error; the library raises it on request)
    ├── GuardFailedError              500 guard_failed: a guard itself crashed and the policy fails closed
    ├── LimitError
    │   ├── RateLimitError            429 rate_limit_exceeded: a retry later succeeds
    │   │   └── ConcurrencyLimitError 429 rate_limit_exceeded
    │   └── QuotaExceededError        429 insufficient_quota: no retry before the reset
    ├── StoreUnavailableError         503: quota store down, fails closed
    │   ├── KeyStoreUnavailableError  503: the API keys cannot be read, fails closed
    │   ├── AuditUnavailableError     503: no audit record can be written and the policy demands one
    │   └── BrokerUnavailableError    503: the broker does not answer; tasks wait in the ledger
    ├── TaskError                     a background task, not the request that asked for it
    │   ├── TaskTimeoutError          504: it ran longer than its time limit
    │   ├── TaskCancelledError        409: it was cancelled
    │   └── NoCurrentTaskError        current_task() was asked for outside a task
    └── ProviderError                 502: the upstream failed
        ├── ProviderTimeoutError      504
        ├── ProviderRateLimitError    429
        ├── ProviderRejectedError     upstream's own 4xx, passed on
        └── CircuitOpenError          503

What the ledger of tasks raises hangs in the same tree: :mod:`sparkle.errors_tasks`.

Messages never contain a key, a prompt or an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class SparkleError(Exception):
    """Base of all errors. ``message`` is safe to show to the caller."""

    http_status: ClassVar[int] = 500
    grpc_status: ClassVar[str] = "INTERNAL"
    type: ClassVar[str] = "server_error"
    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False
    #: Tells OpenAI SDKs whether to retry (header ``x-should-retry``); ``None`` leaves it to their own rule.
    should_retry: ClassVar[bool | None] = None

    def __init__(
        self,
        message: str | None = None,
        *,
        param: str | None = None,
        retry_after: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        self.message: str = message or (type(self).__doc__ or "").strip().splitlines()[0]
        #: The request field at fault, in the caller's terms, e.g. ``messages[0].role``.
        self.param = param
        #: Seconds until a retry can succeed.
        self.retry_after = retry_after
        #: Extra JSON-able fields of the error body (rule ids, reasons, limits).
        self.details: dict[str, Any] = dict(details or {})
        super().__init__(self.message)

    def body(self) -> dict[str, Any]:
        """The OpenAI error body ``{"error": {...}}`` as a JSON-able dict."""
        error: dict[str, Any] = {
            "message": self.message,
            "type": self.type,
            "param": self.param,
            "code": self.code,
            **self.details,
        }
        return {"error": error}


class ConfigurationError(SparkleError):
    """The configuration is wrong."""

    grpc_status = "FAILED_PRECONDITION"
    code = "configuration_error"


class PolicyError(ConfigurationError):
    """The policy file is wrong."""

    code = "policy_error"


class MissingExtraError(ConfigurationError):
    """An optional part is not installed."""

    code = "missing_extra"

    def __init__(self, extra: str, needed_for: str) -> None:
        super().__init__(f"{needed_for} needs the extra {extra!r}: pip install 'sparkle-llm[{extra}]'")


class InvalidRequestError(SparkleError):
    """The request is malformed."""

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    type = "invalid_request_error"
    code = "invalid_request"
    should_retry = False


class RequestTooLargeError(InvalidRequestError):
    """The request is larger than this server accepts."""

    http_status = 413
    code = "request_too_large"


class HeadersTooLargeError(InvalidRequestError):
    """The request's headers are larger than this server accepts; send less in them, e.g. fewer cookies."""

    http_status = 431
    code = "headers_too_large"


class IdempotencyConflictError(InvalidRequestError):
    """The same Idempotency-Key came with another body."""

    http_status = 422
    grpc_status = "ALREADY_EXISTS"
    code = "idempotency_conflict"


class DatasetError(InvalidRequestError):
    """A file of labelled texts, scores or figures is wrong."""

    code = "dataset_error"


class AuthenticationError(SparkleError):
    """The API key is missing, unknown or revoked."""

    http_status = 401
    grpc_status = "UNAUTHENTICATED"
    type = "authentication_error"
    code = "invalid_api_key"
    should_retry = False


class PermissionDeniedError(SparkleError):
    """The key may not do this."""

    http_status = 403
    grpc_status = "PERMISSION_DENIED"
    type = "permission_error"
    code = "permission_denied"
    should_retry = False


class NotFoundError(SparkleError):
    """There is no such thing."""

    http_status = 404
    grpc_status = "NOT_FOUND"
    type = "invalid_request_error"
    code = "not_found"
    should_retry = False


class InputBlockedError(SparkleError):
    """The input was refused by the safety layer."""

    http_status = 400
    grpc_status = "FAILED_PRECONDITION"
    type = "invalid_request_error"
    code = "content_filter"
    should_retry = False


class OutputBlockedError(SparkleError):
    """The answer was withheld by the output layer."""

    http_status = 200
    grpc_status = "FAILED_PRECONDITION"
    type = "content_filter"
    code = "content_filter"
    should_retry = False


class GuardFailedError(SparkleError):
    """A guard failed; the call was refused or its answer withheld."""

    code = "guard_failed"
    should_retry = False  # the same text would crash it again, and the answer would be paid for again


class LimitError(SparkleError):
    """A limit is reached."""

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    retryable = True


class RateLimitError(LimitError):
    """Too many requests in this minute."""

    type = "rate_limit_error"
    code = "rate_limit_exceeded"


class ConcurrencyLimitError(RateLimitError):
    """Too many requests at the same time."""


class QuotaExceededError(LimitError):
    """The quota or budget is used up."""

    type = "insufficient_quota"
    code = "insufficient_quota"
    retryable = False
    should_retry = False


class StoreUnavailableError(SparkleError):
    """The quota store does not answer; calls are refused until it does."""

    http_status = 503
    grpc_status = "UNAVAILABLE"
    code = "quota_store_unavailable"
    retryable = True


class KeyStoreUnavailableError(StoreUnavailableError):
    """The key store does not answer; calls are refused until it does."""

    code = "key_store_unavailable"


class AuditUnavailableError(StoreUnavailableError):
    """The audit record cannot be written and the policy demands one; calls are refused until it can."""

    code = "audit_unavailable"


class TaskError(SparkleError):
    """A background task cannot do what was asked."""

    code = "task_error"
    should_retry = False


class TaskTimeoutError(TaskError):
    """The task ran longer than its time limit."""

    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    code = "task_timeout"


class TaskCancelledError(TaskError):
    """The task was cancelled."""

    http_status = 409
    grpc_status = "CANCELLED"
    code = "task_cancelled"


class NoCurrentTaskError(TaskError):
    """No task runs here: current_task() works inside a function that a worker runs."""

    code = "no_current_task"


class BrokerUnavailableError(StoreUnavailableError):
    """The broker does not answer; tasks wait in the ledger until it does."""

    code = "broker_unavailable"


class ProviderError(SparkleError):
    """The upstream model failed."""

    http_status = 502
    grpc_status = "UNAVAILABLE"
    type = "upstream_error"
    code = "upstream_error"
    retryable = True
    should_retry = False  # the gateway has retried by its own rules; SDKs on top would multiply that


class ProviderTimeoutError(ProviderError):
    """The upstream model did not answer in time."""

    http_status = 504
    grpc_status = "DEADLINE_EXCEEDED"
    code = "upstream_timeout"


class ProviderRateLimitError(ProviderError):
    """The upstream model is rate limited."""

    http_status = 429
    grpc_status = "RESOURCE_EXHAUSTED"
    type = "rate_limit_error"
    code = "upstream_rate_limit_exceeded"
    should_retry = None  # after Retry-After, like any 429


class ProviderRejectedError(ProviderError):
    """The upstream refused the request (its own 4xx)."""

    http_status = 400
    grpc_status = "INVALID_ARGUMENT"
    type = "invalid_request_error"
    code = "upstream_rejected"
    retryable = False
    should_retry = False

    def __init__(self, message: str | None = None, *, status: int = 400, **kwargs: Any) -> None:
        super().__init__(message, **kwargs)
        #: The upstream's own status, 400..499.
        self.status = status


class CircuitOpenError(ProviderError):
    """The upstream failed too often and is given a rest."""

    http_status = 503
    code = "upstream_circuit_open"
    should_retry = None
