"""What an upstream's failure means for the caller and for the router."""

from __future__ import annotations

import json
from email.utils import formatdate

import pytest
from tests.support.providers import KEY

from sparkle.errors import (
    ProviderError,
    ProviderRateLimitError,
    ProviderRejectedError,
    ProviderTimeoutError,
)
from sparkle.llm.providers.failures import (
    Failure,
    ProviderQuotaError,
    from_error_object,
    from_status,
    from_transport,
)
from sparkle.llm.providers.retry_after import retry_after
from sparkle.llm.providers.transport import FailureKind, TransportError

NOW = 1_795_000_000.0


def failure(
    status: int, *, headers: dict[str, str] | None = None, body: bytes = b"", **error: object
) -> Failure:
    content = body or json.dumps({"error": error}).encode()
    raw = [(name.encode(), value.encode()) for name, value in (headers or {}).items()]
    return from_status("up", status, raw, content, key=KEY, now=NOW)


@pytest.mark.parametrize("status", [400, 404, 405, 409, 410, 413, 415, 422])
def test_a_refused_request_keeps_its_status_and_the_upstreams_words(status: int) -> None:
    refused = failure(status, message="max_tokens is too large", code="bad_value", param="max_tokens")
    assert isinstance(refused.error, ProviderRejectedError)
    assert refused.error.status == status
    assert refused.error.message == "max_tokens is too large"
    assert refused.error.param == "max_tokens"
    assert refused.error.body()["error"]["code"] == "bad_value"
    assert (refused.outcome, refused.retry, refused.trips) == ("rejected", False, False)
    assert refused.fallback is (status == 404)


@pytest.mark.parametrize("status", [401, 402, 403])
def test_refused_credentials_are_the_gateways_fault_and_are_not_quoted(status: int) -> None:
    refused = failure(status, message=f"Incorrect API key provided: {KEY}")
    assert type(refused.error) is ProviderError
    assert "refused the gateway's" in refused.error.message
    assert KEY not in refused.error.message
    assert (refused.outcome, refused.retry, refused.fallback) == ("rejected", False, True)


def test_a_rate_limit_stays_one_and_says_how_long() -> None:
    limited = failure(429, headers={"Retry-After": "3"}, message="slow down", code="rate_limit_exceeded")
    assert type(limited.error) is ProviderRateLimitError
    assert limited.error.retry_after == 3.0
    assert (limited.outcome, limited.retry, limited.wait, limited.trips) == ("rate_limit", True, 3.0, False)


@pytest.mark.parametrize("field", ["code", "type"])
def test_a_used_up_quota_is_not_retried_by_us_or_by_the_client(field: str) -> None:
    body = json.dumps({"error": {"message": "You exceeded your current quota", field: "insufficient_quota"}})
    used_up = failure(429, body=body.encode())
    assert isinstance(used_up.error, ProviderQuotaError)
    assert used_up.error.should_retry is False
    assert used_up.retry is False


@pytest.mark.parametrize(
    ("status", "retry"), [(500, True), (502, True), (503, True), (529, True), (501, False)]
)
def test_server_errors_are_a_502_and_mostly_worth_a_retry(status: int, retry: bool) -> None:
    failed = failure(status, message="internal details")
    assert type(failed.error) is ProviderError
    assert "internal details" not in failed.error.message
    assert (failed.outcome, failed.retry, failed.trips) == ("server_error", retry, retry)


def test_a_redirect_is_an_error_and_not_followed() -> None:
    moved = failure(307, headers={"Location": "http://elsewhere.example/"})
    assert type(moved.error) is ProviderError
    assert "elsewhere" not in moved.error.message
    assert not moved.retry


def test_408_is_a_timeout() -> None:
    late = failure(408)
    assert isinstance(late.error, ProviderTimeoutError)
    assert late.retry


@pytest.mark.parametrize(
    ("kind", "error", "retry", "fallback"),
    [
        ("connect", ProviderError, True, True),
        ("connect_timeout", ProviderTimeoutError, True, True),
        ("timeout", ProviderTimeoutError, False, True),
        ("deadline", ProviderTimeoutError, False, True),
        ("reset", ProviderError, True, True),
        ("broken", ProviderError, False, False),
        ("protocol", ProviderError, False, False),
        ("too_large", ProviderError, False, False),
        ("busy", ProviderError, False, True),
    ],
)
def test_every_way_to_get_no_answer_has_its_meaning(
    kind: FailureKind, error: type[ProviderError], retry: bool, fallback: bool
) -> None:
    lost = from_transport("up", TransportError(kind, "why"))
    assert type(lost.error) is error
    assert lost.error.message == "upstream 'up': why"
    assert (lost.retry, lost.fallback) == (retry, fallback)


def test_a_stale_connection_does_not_count_against_the_upstream() -> None:
    assert from_transport("up", TransportError("reset", "why", reused=True)).trips is False
    assert from_transport("up", TransportError("reset", "why")).trips is True


@pytest.mark.parametrize(
    "leak",
    [
        KEY,
        "sk-proj-AbCdEf0123456789_-xyz",
        "sk-abc***************wxyz",
        "Bearer abcdefghijklmnop",
        "api_key=hunter2hunter2",
        '"token": "s3cr3t-value"',
        "gsk_0123456789abcdef",
        "AIzaSyA0123456789abcdefghijklmnopqrstuv",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.sig",
        "0123456789abcdef0123456789abcdef",
        "https://user:pass@proxy.internal/",
    ],
)
def test_whatever_looks_like_a_key_is_masked_in_the_upstreams_words(leak: str) -> None:
    message = failure(400, message=f"you sent {leak} which is wrong").error.message
    secret = leak.split("=")[-1].split(" ")[-1].strip('"').removeprefix("https://").split("@")[0]
    assert secret not in message
    assert message.startswith("you sent ")


def test_an_upstreams_message_is_one_line_of_bounded_length() -> None:
    message = failure(400, message="first\r\nsecond " + "word " * 10_000).error.message
    assert message.startswith("first second word")
    assert len(message) <= 500


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>bad</html>",
        b"[]",
        b'"text"',
        b'{"error": 7}',
        b'{"error": {"message": 5}}',
        b"\xff",
        b"[" * 100_000,
    ],
)
def test_any_body_of_an_error_is_survived(body: bytes) -> None:
    assert failure(400, body=body or b" ").error.message == "upstream 'up' refused the request (400)"


@pytest.mark.parametrize("body", [b'{"error": "no"}', b'{"detail": "no"}', b'{"message": "no"}'])
def test_errors_that_come_close_to_openais_are_understood(body: bytes) -> None:
    assert failure(422, body=body).error.message == "no"


def test_codes_and_params_that_are_no_identifiers_are_dropped() -> None:
    error = failure(400, message="no", code="<script>", param="a b\n").error
    assert error.code == "upstream_rejected"
    assert error.param is None
    assert "code" not in error.details


@pytest.mark.parametrize(
    ("code", "kind"), [(429, ProviderRateLimitError), ("503", ProviderError), (None, ProviderError)]
)
def test_an_error_inside_a_200_means_what_its_code_says(code: object, kind: type[ProviderError]) -> None:
    assert type(from_error_object("up", {"message": "x", "code": code}, key=KEY, now=NOW).error) is kind


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, None),
        ({"retry-after": "2"}, 2.0),
        ({"retry-after": "1.5"}, 1.5),
        ({"retry-after-ms": "250", "retry-after": "9"}, 0.25),
        ({"retry-after": formatdate(NOW + 30, usegmt=True)}, 30.0),
        ({"retry-after": formatdate(NOW - 30, usegmt=True)}, 0.0),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "999999999"}, 604_800.0),
        ({"x-ratelimit-reset-requests": "20ms"}, 0.02),
        ({"x-ratelimit-reset-tokens": "6m0s"}, 360.0),
        ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
        ({"x-ratelimit-reset": str(int(NOW) + 12)}, 12.0),
        ({"x-ratelimit-reset-requests": "1s", "x-ratelimit-remaining-requests": "0", "x-ratelimit-reset-tokens": "9s",
          "x-ratelimit-remaining-tokens": "50"}, 1.0),
    ],
)  # fmt: skip
def test_the_time_to_wait_is_read_from_every_usual_header(
    headers: dict[str, str], seconds: float | None
) -> None:
    raw = [(name.title().encode(), value.encode()) for name, value in headers.items()]
    assert retry_after(raw, NOW) == seconds
