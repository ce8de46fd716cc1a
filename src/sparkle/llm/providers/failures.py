"""What an upstream's failure means: which error the caller gets, and what the router does next.

| upstream                        | caller gets            | same upstream again | next candidate | circuit    |
|---------------------------------|------------------------|---------------------|----------------|------------|
| no connection                   | ProviderError          | yes                 | yes            | counts     |
| connect timeout                 | ProviderTimeoutError   | yes                 | yes            | counts     |
| reset before the answer         | ProviderError          | once                | yes            | counts (a) |
| no answer in time               | ProviderTimeoutError   | no (b)              | yes            | counts (c) |
| broken off, not HTTP, not JSON  | ProviderError          | no (b)              | no (b)         | counts     |
| larger than the bound           | ProviderError          | no                  | no             | no         |
| 408, 425                        | ProviderTimeoutError   | yes                 | yes            | counts     |
| 429                             | ProviderRateLimitError | if Retry-After fits | yes            | no         |
| 429 insufficient_quota          | ProviderQuotaError     | no                  | yes            | no         |
| 401, 402, 403                   | ProviderError          | no                  | yes            | 401 counts |
| 404                             | ProviderRejectedError  | no                  | yes            | no         |
| other 4xx                       | ProviderRejectedError  | no                  | no             | no         |
| 501, 505, 3xx                   | ProviderError          | no                  | yes            | no         |
| other 5xx                       | ProviderError          | yes                 | yes            | counts     |

(a) Not on a connection that had served before: it was stale, and the request is sent once more at once. Every reset may
mean that the request arrived and will be paid for twice; once is the price of keeping connections alive.
(b) The upstream has begun to work, and asking again would cost again.
(c) Unless the deadline that the caller gave is what ended it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import msgspec

from sparkle.errors import ProviderError, ProviderRateLimitError, ProviderRejectedError, ProviderTimeoutError
from sparkle.llm.providers.events import Outcome
from sparkle.llm.providers.retry_after import retry_after
from sparkle.llm.providers.transport import TransportError
from sparkle.llm.providers.wire import wire_rules

_CODE = re.compile(r"[A-Za-z0-9_.:-]{1,64}")
_PARAM = re.compile(r"[A-Za-z0-9_.\[\]-]{1,128}")


class ProviderQuotaError(ProviderRateLimitError):
    """The gateway's quota at the upstream model is used up."""

    type = "insufficient_quota"
    code = "upstream_insufficient_quota"
    retryable: ClassVar[bool] = False
    should_retry: ClassVar[bool | None] = False


@dataclass(frozen=True, slots=True)
class Failure:
    """One attempt that failed, and what follows from it."""

    error: ProviderError
    outcome: Outcome
    retry: bool = False
    """The same upstream may be tried again."""
    once: bool = False
    """... but only once in a call, whatever ``max_retries`` says."""
    fallback: bool = True
    """The next candidate may be tried."""
    trips: bool = True
    """It counts as a failure of the upstream."""
    deadline: bool = False
    """The deadline of the whole call ended it, not the upstream's silence."""
    wait: float | None = None
    """Seconds the upstream asked us to wait."""


class AttemptFailedError(Exception):
    """Carries a :class:`Failure` from the attempt to the router."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.error.message)
        self.failure = failure


def from_transport(name: str, exc: TransportError) -> Failure:
    """What a request without a whole answer means. ``name`` is the upstream's."""
    message = f"upstream {name!r}: {exc.detail}"
    match exc.kind:
        case "connect":
            return Failure(ProviderError(message), "connect", retry=True)
        case "connect_timeout":
            return Failure(ProviderTimeoutError(message), "timeout", retry=True)
        case "timeout":
            return Failure(ProviderTimeoutError(message), "timeout")
        case "deadline":
            return Failure(ProviderTimeoutError(message), "timeout", deadline=True)
        case "busy":
            return Failure(ProviderError(message), "connect", trips=False)
        case "reset":
            return Failure(ProviderError(message), "connect", retry=True, once=True, trips=not exc.reused)
        case "too_large":
            return Failure(ProviderError(message), "server_error", fallback=False, trips=False)
        case "broken" | "protocol":
            return Failure(ProviderError(message), "server_error", fallback=False)


def from_status(
    name: str, status: int, headers: Iterable[tuple[bytes, bytes]], body: bytes, *, key: str, now: float
) -> Failure:
    """What an error status means.

    Args:
        name: The upstream's name.
        status: Anything but 2xx.
        headers: The upstream's headers.
        body: Its body; only an OpenAI-style error in it is looked at.
        key: Our key at the upstream, masked wherever the upstream repeats it.
        now: Seconds since the epoch, for a Retry-After that is a date.
    """
    said = _error_of(body)
    wait = retry_after(headers, now)
    if status == 429:
        code = said.get("code") or said.get("type")
        if code == "insufficient_quota":
            quota = ProviderQuotaError(
                f"the gateway's quota at upstream {name!r} is used up", retry_after=wait
            )
            return Failure(quota, "rate_limit", trips=False)
        limited = ProviderRateLimitError(f"upstream {name!r} is rate limited", retry_after=wait)
        return Failure(limited, "rate_limit", retry=True, trips=False, wait=wait)
    if status in (408, 425):
        late = ProviderTimeoutError(f"upstream {name!r} answered {status}", retry_after=wait)
        return Failure(late, "timeout", retry=True, wait=wait)
    if status in (401, 402, 403):
        # Our key, not the caller's: the upstream's words could hold a part of it and are not passed on.
        what = "account (payment required)" if status == 402 else "credentials"
        refused = ProviderError(f"upstream {name!r} refused the gateway's {what}")
        return Failure(refused, "rejected", trips=status == 401)
    if 400 <= status < 500:
        return Failure(_rejected(name, status, said, key), "rejected", fallback=status == 404, trips=False)
    if 300 <= status < 400:
        moved = ProviderError(f"upstream {name!r} answered with a redirect ({status}), which is not followed")
        return Failure(moved, "server_error", trips=False)
    failed = ProviderError(f"upstream {name!r} answered {status}", retry_after=wait)
    final = status in (501, 505) or status < 300
    return Failure(failed, "server_error", retry=not final, trips=not final, wait=wait)


def from_answer(name: str, detail: str) -> Failure:
    """A 2xx answer that cannot be used; asking again would cost again."""
    return Failure(ProviderError(f"upstream {name!r}: {detail}"), "server_error", fallback=False)


def from_error_object(name: str, error: Any, *, key: str, now: float) -> Failure:
    """An ``error`` that came with status 200, in the body or in a stream: judged by the status it names, else 502."""
    code: Any = cast("dict[str, Any]", error).get("code") if isinstance(error, dict) else None
    status = (
        int(code) if isinstance(code, int | str) and str(code).isdigit() and 400 <= int(code) < 600 else 502
    )
    return from_status(name, status, (), msgspec.json.encode({"error": error}), key=key, now=now)


def _rejected(name: str, status: int, said: dict[str, Any], key: str) -> ProviderRejectedError:
    message = said.get("message")
    shown = wire_rules().masked(message, key) if isinstance(message, str) and message.strip() else ""
    details: dict[str, Any] = {}
    code, param = said.get("code"), said.get("param")
    if isinstance(code, str) and _CODE.fullmatch(code):
        details["code"] = code  # clients decide by it, e.g. context_length_exceeded
    return ProviderRejectedError(
        shown or f"upstream {name!r} refused the request ({status})",
        status=status,
        param=param if isinstance(param, str) and _PARAM.fullmatch(param) else None,
        details=details,
    )


def _error_of(body: bytes) -> dict[str, Any]:
    """The error object of an OpenAI-style body, or of one that comes close; empty when there is none."""
    try:
        data: Any = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return {}
    if not isinstance(data, dict):
        return {}
    fields = cast("dict[str, Any]", data)
    error: Any = fields.get("error", fields.get("detail", fields.get("message")))
    if isinstance(error, str):
        return {"message": error}
    return cast("dict[str, Any]", error) if isinstance(error, dict) else {}
