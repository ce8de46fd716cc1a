"""What a line of the audit file says: who, when, what was found where, what it cost; never a text or key."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import msgspec

from sparkle.llm.verdict import Finding

if TYPE_CHECKING:
    from sparkle.llm.monitoring.record import CallRecord

MAX_FINDINGS = 100
"""Findings kept of one call; ``findings_total`` tells how many there were."""

_MAX_NAME = 256
_WORD = re.compile(r"[A-Za-z_]{1,64}")
_PATH = re.compile(r"[A-Za-z0-9_.\[\]]{0,200}")


class AuditFinding(msgspec.Struct, frozen=True, omit_defaults=True):
    """A finding, located in the original request or answer by code-point offsets."""

    layer: str
    rule: str
    category: str
    mode: str
    severity: str
    score: float
    path: str
    start: int
    end: int


class AuditUsage(msgspec.Struct, frozen=True, omit_defaults=True):
    """Tokens of the call; ``estimated`` when Sparkle counted them."""

    prompt: int
    completion: int
    estimated: bool = False


class AuditSeconds(msgspec.Struct, frozen=True):
    """Where the time went, in seconds; 0 for what did not happen."""

    total: float = 0.0
    input: float = 0.0
    quota: float = 0.0
    upstream: float = 0.0
    first_token: float = 0.0
    output: float = 0.0


class AuditRecord(msgspec.Struct, frozen=True, omit_defaults=True):
    """One call. Fields without a value are left out; fields may be added, none changes its meaning."""

    time: str
    """End of the call, RFC 3339 in UTC with milliseconds."""
    request_id: str
    trace_id: str
    operation: str
    outcome: str
    status: int
    user: str
    model: str
    seconds: AuditSeconds
    policy: str
    """Name of the policy in force when the call began."""
    policy_hash: str
    team: str | None = None
    key_id: str | None = None
    stream: bool = False
    upstream: str | None = None
    finish_reason: str | None = None
    error_type: str | None = None
    limit: str | None = None
    """The limit that refused the call."""
    usage: AuditUsage | None = None
    cost_nano: int = 0
    """10^-9 US dollars."""
    reservation: str | None = None
    findings: tuple[AuditFinding, ...] = ()
    findings_total: int = 0
    input_hmac: dict[str, str] = {}
    """Message (``messages[2]``) to keyed digest, for messages with findings; see :meth:`AuditLog.digest`."""
    v: int = 1


def audit_findings(findings: Iterable[Finding]) -> tuple[AuditFinding, ...]:
    """The first :data:`MAX_FINDINGS` findings as they are recorded."""
    kept: list[AuditFinding] = []
    for f in findings:
        if len(kept) == MAX_FINDINGS:
            break
        # A path is made of field names and positions; anything beyond could be a caller's words.
        matched = _PATH.match(f.path)
        path = matched.group() if matched else ""
        kept.append(
            AuditFinding(
                f.layer, f.rule, f.category, f.mode, f.severity, round(f.score, 4), path, f.start, f.end
            )
        )
    return tuple(kept)


def audit_record_of(record: CallRecord, total: float, now: float) -> AuditRecord:
    """The audit record of a finished call that took ``total`` seconds and ended at ``now`` (Unix seconds)."""
    who, used = record.principal, record.used
    findings = record.input_findings + record.output_findings
    return AuditRecord(
        time=rfc3339(now),
        request_id=clean_name(record.request_id),
        trace_id=record.trace_id,
        operation=record.operation,
        outcome=record.outcome,
        status=record.http_status,
        user=clean_name(who.user),
        model=clean_name(record.model),
        seconds=AuditSeconds(
            round(total, 6),
            round(record.input_seconds, 6),
            round(record.quota_seconds, 6),
            round(record.upstream_seconds, 6),
            round(record.first_token_seconds or 0.0, 6),
            round(record.output_seconds, 6),
        ),
        policy=record.policy[0],
        policy_hash=record.policy[1],
        team=who.team,
        key_id=who.key_id,
        stream=record.stream,
        upstream=record.upstream,
        finish_reason=_word(record.finish_reason),
        error_type=_word(record.error_type),
        limit=record.limit,
        usage=AuditUsage(used.prompt_tokens, used.completion_tokens, used.estimated) if used else None,
        cost_nano=record.cost_nano,
        reservation=record.reservation_id,
        findings=audit_findings(findings) if findings else (),
        findings_total=len(findings),
        input_hmac=record.input_hmac,
    )


def encode_record(record: AuditRecord) -> bytes:
    """One JSON line with its newline."""
    try:
        return msgspec.json.encode(record) + b"\n"
    except UnicodeEncodeError:  # a lone surrogate in a field that is ours; JSON's own escape can hold it
        return json.dumps(msgspec.to_builtins(record)).encode("ascii") + b"\n"


def clean_name(name: str) -> str:
    """A caller's name as one line of at most 256 characters that every encoder takes."""
    if len(name) <= _MAX_NAME and name.isascii():
        return name
    return name[:_MAX_NAME].encode("utf-8", "replace").decode()


def _word(text: str | None) -> str | None:
    """A machine's word as it is; whatever an upstream may have written into the field instead, ``other``."""
    return text if text is None or _WORD.fullmatch(text) else "other"


def canonical_message(message: Mapping[str, Any]) -> bytes:
    """The bytes of a message that its digest is taken of: JSON, keys sorted, ASCII, no spaces."""
    text = json.dumps(message, sort_keys=True, separators=(",", ":"), ensure_ascii=True, default=str)
    return text.encode("ascii")


def rfc3339(now: float) -> str:
    """Unix seconds as ``2026-11-05T06:07:08.901Z``."""
    seconds = int(now)
    return f"{_second(seconds)}.{int((now - seconds) * 1000):03d}Z"


@lru_cache(maxsize=4)
def _second(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))
