"""How a call ends, for its record and for its caller."""

from __future__ import annotations

import asyncio
import secrets
from typing import TYPE_CHECKING, Any

import msgspec

from sparkle.errors import InputBlockedError, ProviderError, ProviderRejectedError, SparkleError
from sparkle.llm.verdict import Action, Verdict

if TYPE_CHECKING:
    from sparkle.llm.monitoring import CallRecord, Outcome

_BY_CODE: dict[str, Outcome] = {
    "content_filter": "input_blocked",
    "rate_limit_exceeded": "rate_limited",
    "insufficient_quota": "quota_exceeded",
}


def new_request_id() -> str:
    """A fresh request id, ``req_`` and 24 hexadecimal digits."""
    return "req_" + secrets.token_hex(12)


def findings_json(verdict: Verdict) -> list[dict[str, Any]]:
    """Findings as JSON-able dicts for error bodies and response extras."""
    return [msgspec.to_builtins(finding) for finding in verdict.findings]


def refuse_if_blocked(verdict: Verdict) -> None:
    """End the call where the input guard says so.

    Raises:
        InputBlockedError: The verdict is a block; the findings stand in its details.
    """
    if verdict.action is not Action.BLOCK:
        return
    blocking = [f for f in verdict.findings if f.mode == "block"]
    first = max(blocking, key=lambda f: f.score)
    raise InputBlockedError(
        f"The input was refused: {first.reason} / 输入被拒绝：{first.reason_zh}",
        param=first.path or None,
        details={"findings": findings_json(verdict)},
    )


def record_failure(record: CallRecord, exc: BaseException) -> None:
    """Close the record of a call that raised."""
    if isinstance(exc, SparkleError):
        status = exc.status if isinstance(exc, ProviderRejectedError) else exc.http_status
        record.finish(_outcome(exc), status, error_type=exc.code)
    elif isinstance(exc, asyncio.CancelledError | GeneratorExit):
        record.finish("client_closed", 499, error_type="cancelled")
    else:
        record.finish("error", 500, error_type=type(exc).__name__)


def _outcome(exc: SparkleError) -> Outcome:
    known = _BY_CODE.get(exc.code)
    if known is not None:
        return known
    if isinstance(exc, ProviderError):
        return "upstream_error"
    return "invalid" if 400 <= exc.http_status < 500 else "error"
