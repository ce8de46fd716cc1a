"""The fields of an answer that are not its text: ids, names, enums, and whatever else an upstream adds.

Nothing is passed unread. A field that stands in every chunk is compared with what was judged last; any other string is
judged as a whole text and redacted in place.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, cast

import msgspec

from sparkle.errors import ProviderError, ProviderRejectedError
from sparkle.llm.guard_failure import log_guard_failure
from sparkle.llm.verdict import ALLOW, Action, Finding

if TYPE_CHECKING:
    from sparkle.llm.output import OutputValidator, PromptGuard

ROLES = frozenset({"assistant", "user", "system", "developer", "tool", "function"})
FINISHES = frozenset(
    {
        *("stop", "length", "tool_calls", "function_call", "content_filter", "eos", "error", "abort"),
        *("end_turn", "max_tokens", "stop_sequence", "tool_use", "sensitive", "network_error"),
        "insufficient_system_resource",
    }
)
"""What upstreams say at the end of an answer; anything else is judged like any string."""

_IDS = frozenset({"id", "object", "model", "system_fingerprint", "service_tier", "request_id", "created"})
"""Fields a machine writes, in which a run of digits is no phone number: only secrets count there."""
_UNCOUNTED = _IDS | {"type", "name", "role"}
"""Fields that are judged but are no generated tokens, for upstreams that report no usage."""
_ID_LENGTH = 128
_CHOICES = frozenset({"choices"})
_PERSONAL = "pii."
_PLAIN_KEY = 20
"""A key up to this long, of letters and underscores only, needs no judging."""
_MOST_VALUES = 10_000
_MOST_BEFORE = 512
_BEFORE_PLACES = 1_000


class FieldGuard:
    """Judges the fields of one answer value by value, and remembers what is clean."""

    def __init__(
        self, validator: OutputValidator, prompt: PromptGuard | None, read: list[str] | None = None
    ) -> None:
        self.findings: list[Finding] = []
        self.blocked = False
        self.read: list[str] = [] if read is None else read
        """Unknown text that has been judged, for counting."""
        self._validator = validator
        self._prompt = prompt
        self._clean: dict[str, Any] = {}
        self._before: dict[str, str] = {}
        self._around: dict[str, Any] = {}

    def envelope(self, data: dict[str, Any], skip: frozenset[str], where: str = "") -> bool:
        """Judge all fields of ``data`` but those in ``skip``, in place; whether one changed.

        Raises:
            ProviderError: There are more than 10,000 values.
        """
        clean = self._clean
        todo: list[str] = []
        for key, value in data.items():
            if value is None or key in skip:
                continue
            if isinstance(value, int | float):
                if _plain(key):
                    continue
            elif clean.get(where + key) == value:
                continue
            todo.append(key)
        changed = False
        for key in todo:
            value = data[key]
            path = f"{where}{key}"
            if self._sweep(data, key, path):
                changed = True
            elif isinstance(value, str) and len(value) <= _ID_LENGTH and len(clean) < _BEFORE_PLACES:
                clean[path] = value
        return changed

    def chunk(self, chunk: dict[str, Any]) -> bool:
        """:meth:`envelope` of one chunk of a stream: most say around their choices what the last one said."""
        around = {**chunk, "choices": None}
        if around == self._around:
            return False
        changed = self.envelope(chunk, _CHOICES)
        self._around = {} if changed else around
        return changed

    def string(self, path: str, text: str, key: str = "") -> str:
        """One string; redacted where it, or what came before it at the same place, gives something away.

        Clients join the strings of a place chunk by chunk, so half a secret may have gone out before: then the rest
        stays.
        """
        before = self._before.get(path, "")
        if not text or text == before:
            return text
        result = self._validator.check_text(text, prompt=self._prompt, path=path)
        verdict, out = result.verdict, result.text
        if key in _IDS and verdict.findings and len(text) <= _ID_LENGTH:
            telling = [f for f in verdict.findings if not f.category.startswith(_PERSONAL)]
            verdict, out = (verdict, out) if telling else (ALLOW, text)
        elif before and verdict.action is Action.ALLOW:
            joined = self._validator.check_text(before + text, prompt=self._prompt, path=path)
            if joined.verdict.action is not Action.ALLOW:
                verdict, out = joined.verdict, ""
        self.findings += verdict.findings
        self.blocked |= verdict.action is Action.BLOCK
        if path in self._before or len(self._before) < _BEFORE_PLACES:
            self._before[path] = (before + text)[-_MOST_BEFORE:]
        return out

    def arguments(self, holder: dict[str, Any], field: str, path: str) -> bool:
        """Arguments that came as a JSON value instead of JSON text: judged as JSON text, kept a value."""
        text = msgspec.json.encode(holder[field]).decode()
        self.read.append(text)
        result = self._validator.check_tool_arguments(text, prompt=self._prompt, path=path)
        self.findings += result.verdict.findings
        if result.verdict.action is Action.BLOCK:
            self.blocked = True
            holder[field] = {}
            return True
        if result.text == text:
            return False
        holder[field] = msgspec.json.decode(result.text)
        return True

    def keys(self, node: dict[str, Any], path: str) -> bool:
        """Judge the keys of one object; one that gives something away is renamed."""
        changed = False
        for key in [k for k in node if not _plain(k)]:
            out = self.string(f"{path}.*", key)
            self._before.pop(f"{path}.*", None)  # keys are not joined
            if out != key:
                node[out] = node.pop(key)
                changed = True
        return changed

    def _sweep(self, holder: dict[str, Any], first: str, path: str) -> bool:
        changed = False
        todo: list[tuple[Any, str | int, str]] = [(holder, first, path)]
        seen = 0
        while todo:
            container, key, at = todo.pop()
            seen += 1
            if seen > _MOST_VALUES:
                raise ProviderError("the upstream's answer has too many parts to be checked")
            value: Any = container[key]
            if isinstance(value, str):
                out = self.string(at, value, first if at == first else "")
                if key not in _UNCOUNTED:
                    self.read.append(value)
                if out != value:
                    container[key] = out
                    changed = True
            elif isinstance(value, dict):
                node = cast("dict[str, Any]", value)
                changed |= self.keys(node, at)
                todo += [(node, k, f"{at}.{k}") for k, v in node.items() if isinstance(v, str | dict | list)]
            elif isinstance(value, list):
                items = cast("list[Any]", value)
                todo += [
                    (items, i, f"{at}[{i}]") for i, v in enumerate(items) if isinstance(v, str | dict | list)
                ]
        if not _plain(first) and first in holder:
            out = self.string(f"{path[: -len(first)]}*", first)
            if out != first:
                holder[out] = holder.pop(first)
                changed = True
        return changed

    def logprobs_tell(self, logprobs: object) -> bool:
        """Whether the tokens in ``logprobs``, spelled out, give away what may not leave."""
        chosen, others = _spelled(logprobs)
        for text in ("".join(chosen), " ".join(others)):
            result = self._validator.check_text(text, prompt=self._prompt, path="logprobs")
            if result.verdict.action is not Action.ALLOW:
                self.findings += result.verdict.findings
                return True
        return False


def spells(logprobs: object, texts: Iterable[object]) -> bool:
    """Whether the chosen tokens are one of ``texts``, which have been judged."""
    chosen, _ = _spelled(logprobs, only_tokens=True)
    said = "".join(chosen)
    return any(said == text for text in texts if text)


def guard_rejection(exc: BaseException, validator: OutputValidator, prompt: PromptGuard | None) -> None:
    """Redact an upstream's own words in a rejection, in place; any other error is left alone.

    A rejection may repeat the request, with the personal data that is in it.
    """
    if not isinstance(exc, ProviderRejectedError):
        return
    try:
        fields = FieldGuard(validator, prompt)
        message = fields.string("error.message", exc.message)
        fields.envelope(exc.details, frozenset(), "error.")
        if exc.param:
            exc.param = fields.string("error.param", exc.param)
        exc.message = "the upstream refused the request" if fields.blocked or not message else message
    except Exception as failure:  # noqa: BLE001  a crash of the guard itself: the words stay here
        log_guard_failure("output", failure)
        exc.message, exc.param = "the upstream refused the request", None
        exc.details.clear()
    exc.args = (exc.message,)


def decode_chunk(payload: bytes) -> dict[str, Any]:
    """The JSON object of one chunk of a stream.

    Raises:
        ProviderError: It is none.
    """
    with contextlib.suppress(msgspec.DecodeError, RecursionError):
        data: Any = msgspec.json.decode(payload)
        if isinstance(data, dict):
            return cast("dict[str, Any]", data)
    raise ProviderError("the upstream's stream is not JSON")


def _plain(key: str) -> bool:
    return len(key) <= _PLAIN_KEY and key.replace("_", "").isalpha()


def _spelled(logprobs: object, *, only_tokens: bool = False) -> tuple[list[str], list[str]]:
    """The chosen tokens in their order, and every other string, and bytes spelled out, in no order that matters."""
    chosen: list[str] = []
    others: list[str] = []
    raw = bytearray()
    todo: list[tuple[Any, int]] = [(logprobs, 0)]
    while todo:
        value, depth = todo.pop()
        if isinstance(value, Mapping):
            for key, inner in cast("Mapping[str, Any]", value).items():
                if key == "token" and depth == 1 and isinstance(inner, str):
                    chosen.append(inner)
                elif key == "bytes" and isinstance(inner, list):
                    if depth == 1:
                        raw += bytes(
                            b for b in cast("list[Any]", inner) if isinstance(b, int) and 0 <= b < 256
                        )
                    else:
                        others.append(_text_of(cast("list[Any]", inner)))
                elif not isinstance(inner, int | float | None):
                    todo.append((inner, depth + (key != "content" and key != "refusal")))
                if not only_tokens and not _plain(key):
                    others.append(key)
        elif isinstance(value, list):
            value = cast("list[Any]", value)
            # Taken from the end: reversed here, they come out in their order.
            todo += [(item, max(depth, 1)) for item in reversed(value)]
        elif isinstance(value, str):
            others.append(value)
    if raw:
        others.append(raw.decode(errors="replace"))
    return chosen, others


def _text_of(values: list[Any]) -> str:
    return bytes(b for b in values if isinstance(b, int) and 0 <= b < 256).decode(errors="replace")
