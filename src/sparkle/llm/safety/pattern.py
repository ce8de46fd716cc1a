r"""The small language in which rules are written, and its translation to RE2.

It is RE2 syntax with four shorthands, so that one line of data covers a family of paraphrases:

``{name}``     a fragment from ``data/fragments.yaml``: an alternation of words, e.g. ``{ovr}``
``{gap:N}``    up to N words of the same sentence (after a blank)
``{zgap:N}``   up to N Chinese characters of the same clause
a blank        whatever separates words: blanks, line breaks, quotes, commas, Markdown marks

Every pattern is compiled twice: ``words`` for ordinary text and ``compact`` for text whose separators were taken out
(``i g n o r e``), where blanks are optional, gaps count characters and ``\b`` means nothing.

A fragment, group or word that stands at the top level of a pattern, and is not optional, must occur in every match.
:class:`Compiled` names those *needs*, so that one pass with all of them together
(:class:`~sparkle.llm.safety.regex.RegexSet`) tells which few patterns are worth searching for. Nobody has to keep a
trigger word in step with a pattern by hand, and a pattern cannot be missed because its trigger was.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

from sparkle.llm.safety.regex import PatternError

Variant = Literal["words", "compact"]

_SEPARATOR = r"[\s\"'*_,:;()<>\[\]#~`|/=+-]"
_BLANK: dict[Variant, str] = {"words": f"(?:{_SEPARATOR}+)", "compact": f"(?:{_SEPARATOR}*)"}
_TOKEN = re.compile(
    r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[a-z][a-z0-9_]*\}|\{z?gap:\d+\}|\{\d+,?\d*\}|\(\?[a-zA-Z-]*:?|[()| ]|.", re.DOTALL
)
_MAX_NESTED = 8
_OPTIONAL = ("?", "*", "{0")
# A need with gaps or open classes inside would make the set's automaton large and filter nothing.
_OPEN = re.compile(r"\[\^|\\[SWDsdw][+*{]|\.[*+{]")
_NAMED = re.compile(r"\{[a-z][a-z0-9_]*\}")
_GAP = re.compile(r"\{z?gap:\d+\}")
_LITERAL = re.compile(r"[a-z0-9<>:;=&%@!~/_-]|\\[^a-zA-Z0-9]|[^\x00-\x7f]")
_MIN_LITERAL = 4


@dataclass(frozen=True, slots=True)
class Compiled:
    """One alternative of a pattern, translated."""

    source: bytes
    """RE2 source over UTF-8 bytes read as Latin-1."""
    needs: frozenset[bytes]
    """RE2 sources each of which occurs in every match; empty if there is none."""


def translate(pattern: str, fragments: Mapping[str, str], variant: Variant = "words") -> Iterator[Compiled]:
    """Translate one pattern, each top-level alternative for itself.

    Raises:
        PatternError: unknown fragment, fragments nested too deep or a character class that RE2 could only match
            byte by byte (a negated class or a range with Chinese characters).
    """
    for alternative in _alternatives(pattern):
        translator = _Translator(fragments, variant)
        source = translator.run(alternative)
        needs = frozenset(need.encode() for need in translator.needs if not _OPEN.search(need))
        yield Compiled(source.encode(), needs)


def _alternatives(pattern: str) -> Iterator[str]:
    depth, start, at = 0, 0, 0
    for token in _TOKEN.findall(pattern):
        if token[0] == "(":
            depth += 1
        elif token == ")":
            depth -= 1
        elif token == "|" and depth == 0:
            yield pattern[start:at]
            start = at + 1
        at += len(token)
    yield pattern[start:]


class _Translator:
    def __init__(self, fragments: Mapping[str, str], variant: Variant) -> None:
        self._fragments = fragments
        self._variant: Variant = variant
        self.needs: set[str] = set()

    def run(self, pattern: str) -> str:
        tokens: list[str] = _TOKEN.findall(pattern)
        out: list[str] = []
        literal: list[str] = []
        depth = group = 0
        for index, token in enumerate([*tokens, ""]):
            following = tokens[index + 1] if index + 1 < len(tokens) else ""
            needed = not following.startswith(_OPTIONAL)
            if depth == 0 and needed and _LITERAL.fullmatch(token):
                literal.append(_piece(token, self._fragments, self._variant, 0))
            elif literal:
                if len("".join(literal).encode()) >= _MIN_LITERAL:
                    self.needs.add("".join(literal))
                literal.clear()
            if token[:1] == "(":
                if depth == 0:
                    group = len(out)
                depth += 1
                out.append(token)
            elif token == ")":
                depth -= 1
                out.append(token)
                if depth == 0 and needed:
                    self.needs.add("".join(out[group:]))
            elif token:
                piece = _piece(token, self._fragments, self._variant, 0)
                out.append(piece)
                if depth == 0 and needed and _NAMED.fullmatch(token):
                    self.needs.add(piece)
        return "".join(out)


def _piece(token: str, fragments: Mapping[str, str], variant: Variant, nested: int) -> str:
    if token == " ":
        return _BLANK[variant]
    if token == r"\b":
        return "" if variant == "compact" else token
    if _GAP.fullmatch(token):
        return _gap(token, variant)
    if _NAMED.fullmatch(token):
        name = token[1:-1]
        if name not in fragments:
            raise PatternError(f"unknown fragment {token}")
        if nested > _MAX_NESTED:
            raise PatternError("fragments refer to each other in a circle")
        inner = "".join(_piece(inner, fragments, variant, nested + 1) for inner in _TOKEN.findall(fragments[name]))
        return f"(?:{inner})"
    if token[0] == "[" and len(token) > 1:
        return _byte_class(token)
    # A following ? or * must mean the whole character, not its last byte.
    return token if token.isascii() else f"(?:{token})"


def _gap(token: str, variant: Variant) -> str:
    kind, _, count = token[1:-1].partition(":")
    if kind == "zgap":
        return f"[^.!?\\n]{{0,{3 * int(count)}}}"
    if variant == "compact":
        return f"[^.!?\\n]{{0,{6 * int(count)}}}"
    return f"(?:[^\\s.!?]+[\\s,:;\"']+){{0,{count}}}"


def _byte_class(token: str) -> str:
    """A class with Chinese characters, rewritten as an alternation, because matching is by bytes."""
    if token.isascii():
        return token
    body = token[1:-1]
    if body.startswith("^") or re.search(r"[^\x00-\x7f]-|-[^\x00-\x7f]", body):
        raise PatternError("a class with non-ASCII characters can be neither negated nor a range")
    wide = [c for c in body if not c.isascii()]
    narrow = "".join(c for c in body if c.isascii())
    return "(?:" + "|".join([*([f"[{narrow}]"] if narrow else []), *wide]) + ")"
