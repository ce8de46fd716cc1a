"""Judging a file of texts, line by line: what ``sparkle guard scan`` does."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, cast, get_args

import msgspec

from sparkle.errors import InvalidRequestError, SparkleError
from sparkle.llm.policy import Trust
from sparkle.llm.safety.guard import LLMSafety
from sparkle.llm.verdict import Action
from sparkle.validation import did_you_mean

MAX_LINE_BYTES = 16 * 1024 * 1024
"""Longer lines are answered with an error and skipped without being held in memory."""

_TRUSTS: tuple[str, ...] = get_args(Trust)


@dataclass(frozen=True, slots=True)
class ScanCounts:
    """What became of the lines."""

    allow: int = 0
    redact: int = 0
    block: int = 0
    errors: int = 0

    @property
    def lines(self) -> int:
        """All lines answered."""
        return self.allow + self.redact + self.block + self.errors

    def sentence(self) -> str:
        """The counts for a person."""
        return (
            f"{self.lines} lines: {self.allow} allowed, {self.redact} redacted, {self.block} blocked, "
            f"{self.errors} not readable"
        )


def scan_lines(reader: BinaryIO, writer: BinaryIO, safety: LLMSafety, *, role: str = "user") -> ScanCounts:
    """Judge one JSON object a line and write one JSON object a line, in the same order.

    Args:
        reader: lines ``{"text": str, "role": str?, "trust": str?}`` in UTF-8; other fields are ignored. ``role`` is
            judged as in a conversation, ``trust`` (:data:`sparkle.llm.policy.Trust`) wins over it. Blank lines are
            passed over.
        writer: takes ``{"action", "score", "findings", "ms"}``, ``ms`` being the milliseconds of judging; for a line
            that cannot be judged ``{"error": {...}}`` with ``message`` and ``line`` (1-based). Never holds a text.
        safety: the guard.
        role: whose text a line is that names no role.

    Memory stays constant however long the file is.
    """
    counts = {Action.ALLOW: 0, Action.REDACT: 0, Action.BLOCK: 0}
    errors = 0
    for number, line in _lines(reader):
        try:
            text, trust = _parse(line, safety, role)
            began = time.perf_counter()
            verdict = safety.check_text(text, trust=trust)
            spent = (time.perf_counter() - began) * 1e3
        except SparkleError as error:
            errors += 1
            answer: dict[str, object] = {
                "error": {"message": error.message, "code": error.code, "param": error.param, "line": number}
            }
        else:
            counts[verdict.action] += 1
            answer = {
                "action": verdict.action,
                "score": verdict.score,
                "findings": verdict.findings,
                "ms": round(spent, 3),
            }
        writer.write(msgspec.json.encode(answer) + b"\n")
    return ScanCounts(counts[Action.ALLOW], counts[Action.REDACT], counts[Action.BLOCK], errors)


def _lines(reader: BinaryIO) -> Iterator[tuple[int, bytes | None]]:
    """(1-based number, line); ``None`` for a line that is too long. Blank lines are left out."""
    number = 0
    while line := reader.readline(MAX_LINE_BYTES + 1):
        number += 1
        if len(line) > MAX_LINE_BYTES and not line.endswith(b"\n"):
            while (rest := reader.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield number, None
        elif line.strip():
            yield number, line


def _parse(line: bytes | None, safety: LLMSafety, default_role: str) -> tuple[str, Trust]:
    if line is None:
        raise InvalidRequestError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        # Not msgspec: escaped lone surrogates are no Unicode, but attackers send them and the guard judges them.
        row: object = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        raise InvalidRequestError("the line is not JSON") from None
    if not isinstance(row, dict):
        raise InvalidRequestError("the line is not a JSON object")
    fields = cast("dict[str, Any]", row)
    text = fields.get("text")
    if not isinstance(text, str):
        raise InvalidRequestError("the line has no string named text", param="text")
    trust, role = fields.get("trust"), fields.get("role", default_role)
    if trust is not None:
        if trust not in _TRUSTS:
            raise InvalidRequestError(f"trust must be one of {', '.join(_TRUSTS)}", param="trust")
        return text, cast("Trust", trust)
    if not isinstance(role, str):
        raise InvalidRequestError("role must be a string", param="role")
    if role not in safety.roles:
        hint = did_you_mean(role, safety.roles) or f"; there are {', '.join(sorted(safety.roles))}"
        raise InvalidRequestError(f"unknown role {role[:40]!r}{hint}", param="role")
    return text, safety.trust_of(role)
