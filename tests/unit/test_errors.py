"""Every error says at every door what it is."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

import sparkle.errors as errors
from sparkle.errors import MissingExtraError, ProviderRejectedError, SparkleError

# class: HTTP status, gRPC status, OpenAI type, code, retryable, x-should-retry
DOCUMENTED: dict[str, tuple[int, str, str, str, bool, bool | None]] = {
    "SparkleError": (500, "INTERNAL", "server_error", "internal_error", False, None),
    "ConfigurationError": (500, "FAILED_PRECONDITION", "server_error", "configuration_error", False, None),
    "PolicyError": (500, "FAILED_PRECONDITION", "server_error", "policy_error", False, None),
    "MissingExtraError": (500, "FAILED_PRECONDITION", "server_error", "missing_extra", False, None),
    "InvalidRequestError": (400, "INVALID_ARGUMENT", "invalid_request_error", "invalid_request", False, False),
    "RequestTooLargeError": (413, "INVALID_ARGUMENT", "invalid_request_error", "request_too_large", False, False),
    "HeadersTooLargeError": (431, "INVALID_ARGUMENT", "invalid_request_error", "headers_too_large", False, False),
    "IdempotencyConflictError": (
        422, "ALREADY_EXISTS", "invalid_request_error", "idempotency_conflict", False, False,
    ),
    "DatasetError": (400, "INVALID_ARGUMENT", "invalid_request_error", "dataset_error", False, False),
    "AuthenticationError": (401, "UNAUTHENTICATED", "authentication_error", "invalid_api_key", False, False),
    "PermissionDeniedError": (403, "PERMISSION_DENIED", "permission_error", "permission_denied", False, False),
    "NotFoundError": (404, "NOT_FOUND", "invalid_request_error", "not_found", False, False),
    "InputBlockedError": (400, "FAILED_PRECONDITION", "invalid_request_error", "content_filter", False, False),
    "OutputBlockedError": (200, "FAILED_PRECONDITION", "content_filter", "content_filter", False, False),
    "GuardFailedError": (500, "INTERNAL", "server_error", "guard_failed", False, False),
    "LimitError": (429, "RESOURCE_EXHAUSTED", "server_error", "internal_error", True, None),
    "RateLimitError": (429, "RESOURCE_EXHAUSTED", "rate_limit_error", "rate_limit_exceeded", True, None),
    "ConcurrencyLimitError": (429, "RESOURCE_EXHAUSTED", "rate_limit_error", "rate_limit_exceeded", True, None),
    "QuotaExceededError": (429, "RESOURCE_EXHAUSTED", "insufficient_quota", "insufficient_quota", False, False),
    "StoreUnavailableError": (503, "UNAVAILABLE", "server_error", "quota_store_unavailable", True, None),
    "KeyStoreUnavailableError": (503, "UNAVAILABLE", "server_error", "key_store_unavailable", True, None),
    "AuditUnavailableError": (503, "UNAVAILABLE", "server_error", "audit_unavailable", True, None),
    "TaskError": (500, "INTERNAL", "server_error", "task_error", False, False),
    "TaskTimeoutError": (504, "DEADLINE_EXCEEDED", "server_error", "task_timeout", False, False),
    "TaskCancelledError": (409, "CANCELLED", "server_error", "task_cancelled", False, False),
    "NoCurrentTaskError": (500, "INTERNAL", "server_error", "no_current_task", False, False),
    "BrokerUnavailableError": (503, "UNAVAILABLE", "server_error", "broker_unavailable", True, None),
    "ProviderError": (502, "UNAVAILABLE", "upstream_error", "upstream_error", True, False),
    "ProviderTimeoutError": (504, "DEADLINE_EXCEEDED", "upstream_error", "upstream_timeout", True, False),
    "ProviderRateLimitError": (
        429, "RESOURCE_EXHAUSTED", "rate_limit_error", "upstream_rate_limit_exceeded", True, None,
    ),
    "ProviderRejectedError": (
        400, "INVALID_ARGUMENT", "invalid_request_error", "upstream_rejected", False, False,
    ),
    "CircuitOpenError": (503, "UNAVAILABLE", "upstream_error", "upstream_circuit_open", True, None),
}  # fmt: skip

SDK_RETRIES = {408, 409, 429, *range(500, 600)}


def tree(kind: type[SparkleError], depth: int = 0) -> Iterator[tuple[str, int]]:
    yield kind.__name__, depth
    for child in kind.__subclasses__():
        if child.__module__ == errors.__name__:
            yield from tree(child, depth + 1)


CLASSES = [getattr(errors, name) for name, _ in tree(SparkleError)]


def build(kind: type[SparkleError], message: str | None = None) -> SparkleError:
    return MissingExtraError("otel", "tracing") if kind is MissingExtraError else kind(message)


def test_the_tree_in_the_docstring_is_the_real_one() -> None:
    drawn: list[tuple[str, int]] = []
    for line in (errors.__doc__ or "").splitlines():
        if matched := re.match(r"    ([│├└─ ]*)(\w+Error)\b", line):
            drawn.append((matched.group(2), len(matched.group(1)) // 4))
    assert sorted(drawn) == sorted(tree(SparkleError))
    parents = {name: parent_of(drawn, index) for index, (name, _) in enumerate(drawn)}
    for kind in CLASSES[1:]:
        assert parents[kind.__name__] == kind.__base__.__name__


def parent_of(drawn: list[tuple[str, int]], index: int) -> str | None:
    depth = drawn[index][1]
    return next((name for name, d in reversed(drawn[:index]) if d == depth - 1), None)


def test_every_class_is_documented_here() -> None:
    assert {kind.__name__ for kind in CLASSES} == set(DOCUMENTED)


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_a_class_tells_every_door_what_it_is(kind: type[SparkleError]) -> None:
    told = (kind.http_status, kind.grpc_status, kind.type, kind.code, kind.retryable, kind.should_retry)
    assert told == DOCUMENTED[kind.__name__]


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_without_a_message_the_docstring_speaks(kind: type[SparkleError]) -> None:
    error = build(kind)
    assert error.message == str(error)
    assert error.message[0].isupper() or kind is MissingExtraError
    assert not error.message.startswith("_")


@pytest.mark.parametrize("kind", CLASSES, ids=lambda kind: kind.__name__)
def test_what_cannot_be_retried_is_not_retried_by_the_sdk(kind: type[SparkleError]) -> None:
    if not kind.retryable and issubclass(kind, errors.LimitError | errors.ProviderError):
        assert kind.http_status not in SDK_RETRIES or kind.should_retry is False
    if kind in (errors.InputBlockedError, errors.OutputBlockedError):
        assert kind.http_status not in SDK_RETRIES


def test_the_body_is_the_openai_error_object() -> None:
    error = errors.QuotaExceededError(
        "used up", param="model", retry_after=60, details={"limit": "tokens_per_day"}
    )
    assert error.body() == {
        "error": {
            "message": "used up",
            "type": "insufficient_quota",
            "param": "model",
            "code": "insufficient_quota",
            "limit": "tokens_per_day",
        }
    }


def test_a_missing_extra_says_how_to_get_it() -> None:
    assert "pip install 'sparkle-llm[otel]'" in MissingExtraError("otel", "tracing").message


def test_a_refusal_by_the_upstream_keeps_its_status() -> None:
    assert ProviderRejectedError("no", status=422).status == 422
