"""The arguments of a tool call: JSON whose strings and numbers are judged, and which stays JSON."""

from __future__ import annotations

import json
import json.decoder
import re
from collections.abc import Callable
from typing import cast

from msgspec import structs

from sparkle.llm.output.result import OutputResult
from sparkle.llm.verdict import Action, Finding, Verdict

_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d+)?")
_LONG_NUMBER = re.compile(r"[0-9]{7}")
_TOKEN = re.compile(r"[\"\-0-9]")
_COLON = re.compile(r"[ \t\r\n]*:")
_MAX_DEPTH = 4
_ESCAPE = re.compile(r"\\(?:\\|u005[cC])*(?:u([0-9a-fA-F]{4})|([\"/bfnrt]))")
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_MOST_ROUNDS = 12
"""Each round takes off a layer in which the escapes' own letters are escaped; every layer makes a text six times as
long, so more than these do not fit in any answer."""

# Decodes the string that begins behind an index, and says where it ends; the json module's own, missing in its stubs.
_decode = cast("Callable[[str, int], tuple[str, int]]", json.decoder.scanstring)  # pyright: ignore[reportAttributeAccessIssue, reportUnknownMemberType]

CheckText = Callable[[str], OutputResult]


def check_json(arguments: str, check: CheckText, depth: int = 0) -> OutputResult | None:
    """Judge the values of a JSON text in place; ``None`` when it is no JSON.

    A value is judged as it reads once decoded, behind its key (``"password": ...`` makes a value a password); JSON
    inside a string is walked as well. Only what is redacted changes, the rest keeps its bytes; a redacted number
    becomes a string. Findings point at the string or number they stand in. A block cuts the text before its value.
    What is no JSON, or nested too deep to be walked, is judged with its escapes decoded, and redacted as a whole.
    """
    try:
        json.loads(arguments)
    except (ValueError, RecursionError):
        return _check_escaped(arguments, check)  # cut off in the middle, mostly: its escapes are still read
    return _Walk(arguments, check, depth).run()


def unescaped(text: str) -> str:
    """``text`` with all JSON escapes decoded, however often they have been escaped again."""
    for _ in range(_MOST_ROUNDS):
        decoded = _ESCAPE.sub(_character, text)
        if decoded == text:
            break
        text = decoded
    # Two halves of a character that were escaped apart become one; a lone half stays out of it.
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _character(match: re.Match[str]) -> str:
    code, control = match.groups()
    return chr(int(code, 16)) if code else _CONTROLS.get(control, control)


def _check_escaped(text: str, check: CheckText) -> OutputResult | None:
    """Judge a text as it reads once its escapes are decoded; ``None`` when that gives nothing away.

    What may leave then is the decoded text, redacted: in the escaped one the places are unknown.
    """
    if "\\" not in text:
        return None
    decoded = unescaped(text)
    result = check(decoded)
    if result.verdict.action is Action.ALLOW:
        return None
    findings = [structs.replace(f, start=0, end=len(text)) for f in result.verdict.findings]
    return OutputResult(Verdict.of(findings), result.text)


class _Walk:
    """One pass over the tokens of valid JSON."""

    def __init__(self, text: str, check: CheckText, depth: int) -> None:
        self._text = text
        self._check = check
        self._depth = depth
        self._findings: list[Finding] = []
        self._out: list[str] = []
        self._kept = 0

    def run(self) -> OutputResult:
        """Judge all tokens."""
        text, at, key, blocked = self._text, 0, "", False
        while (token := _TOKEN.search(text, at)) and not blocked:
            at = token.start()
            if text[at] == '"':
                value, end = _decode(text, at + 1)
                if _COLON.match(text, end):
                    blocked = self._note(self._check(value), at, end)
                    key = value
                else:
                    blocked = self._note(self._value(value, key), at, end)
            else:
                number = _NUMBER.match(text, at)
                end = number.end() if number else at + 1
                if _LONG_NUMBER.search(text, at, end):
                    blocked = self._note(self._value(text[at:end], key), at, end)
            at = end
        if not blocked:
            self._out.append(text[self._kept :])
        return OutputResult(Verdict.of(self._findings), "".join(self._out))

    def _value(self, value: str, key: str) -> OutputResult:
        if value[:1] in "{[" and self._depth < _MAX_DEPTH:
            inner = check_json(value, self._check, self._depth + 1)
            if inner is not None:
                return inner
        if (
            self._depth >= _MAX_DEPTH or "\\u" in value
        ):  # JSON that is not walked may still be read by someone
            inner = _check_escaped(value, self._check)
            if inner is not None:
                return inner
        lead = f'{key}: "'
        result = self._check(lead + value)
        if not result.verdict.findings:
            return OutputResult(result.verdict, value)
        if result.text.startswith(lead):
            return OutputResult(result.verdict, result.text[len(lead) :])
        return self._check(value)

    def _note(self, result: OutputResult, start: int, end: int) -> bool:
        """Take in the judgement of the token at ``text[start:end]``; whether it ends the text."""
        self._findings += (structs.replace(f, start=start, end=end) for f in result.verdict.findings)
        if result.verdict.action is Action.ALLOW:
            return False
        self._out.append(self._text[self._kept : start])
        self._kept = end
        if result.verdict.action is Action.BLOCK:
            return True
        self._out.append(_encode(result.text))
        return False


def _encode(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a surrogate pair: only the escaped form is valid
        return json.dumps(value)
    return json.dumps(value, ensure_ascii=False)
