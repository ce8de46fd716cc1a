r"""The small language in which rules are written, and its translation to RE2.

It is RE2 syntax with four shorthands, so that one line of data covers a family of paraphrases:

``{name}``     a fragment from ``data/fragments.yaml``: an alternation of words, e.g. ``{ovr}``
``{gap:N}``    up to N words of the same sentence (after a blank)
``{zgap:N}``   up to N Chinese characters of the same sentence and line
``{clause:N}`` up to N bytes of the same sentence
``{span:N}``   up to N bytes of the same line
``{begin}``    the beginning of a clause
``{end}``      the end of a clause, or of the text
a blank        whatever separates words: blanks, line breaks, quotes, commas, Markdown marks

Counting is what makes an automaton large: text full of trigger words has it remember where each of the last N of
them stood. So a pattern with gaps becomes two: a *loose* one, in which a gap is anything within the sentence or line,
and the *exact* one, which only reads the sentences that the loose one points out.

There are two variants of every pattern: ``words`` for ordinary text and ``compact`` for text whose separators were
taken out (``i g n o r e``), where blanks are optional, gaps count characters and ``\b`` means nothing.

A pattern that matches no ``.``, ``!`` or ``?``, but for those of ``{begin}`` and ``{end}``, is *local*: its matches lie
within one sentence, so a long text can be judged piece by piece, and most pieces need no pattern searched at all.

What must occur in every match (one of a few literals, like ``ignor``, ``disregard`` or ``forget``) is a *need* of the
pattern. Needs are derived here, so one pass with all literals together tells which few patterns are worth searching
for: an automaton of plain words stays small whatever the texts, which one of whole patterns does not. Nobody has to
keep a trigger word in step with a pattern by hand, and a pattern cannot be missed because its trigger was forgotten.
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
    # First whole runs of plain letters, but for a last one that a quantifier follows.
    r"[a-z0-9]+(?=[a-z0-9][*+?{]|[^a-z0-9*+?{]|$)|[\u4e00-\u9fff]+(?=[\u4e00-\u9fff][*+?{]|[^\u4e00-\u9fff*+?{]|$)"
    r"|\\.|\[\^?\]?(?:\\.|[^\]\\])*\]|\{[a-z][a-z0-9_]*\}|\{(?:z?gap|clause|span):\d+\}|\{\d+,?\d*\}\??"
    r"|[*+?]\??|\(\?:|[()| ]|.",
    re.DOTALL,
)
_NAMED = re.compile(r"\{[a-z][a-z0-9_]*\}")
_GAP = re.compile(r"\{(?:z?gap|clause|span):\d+\}")
_QUANTIFIER = re.compile(r"[*+?]\??|\{\d+,?\d*\}\??")
_LITERAL = re.compile(r"[a-z0-9]+|[<>:;=&%@!~/_-]|\\[^a-zA-Z0-9]|[^\x00-\x7f]+")
_CROSSING = frozenset({".", "!", r"\.", r"\?", r"\!", r"\W", r"\S", r"\D"})
_EDGES = {
    "{begin}": "(?:^|[.!?\\n\"':,;*\\]])",
    "{end}": "(?:\\s{0,2}(?:[.!?,;:\"')\\]\\n]|$))",
}
EDGE_BYTES = 3
"""Most bytes that ``{begin}`` and ``{end}`` take beyond the sentence."""

_MIN_LITERAL = 2
"""Bytes of the shortest literal that is worth looking for, but for :data:`RARE_SIGNS`."""

RARE_SIGNS = frozenset({b"<", b"=", b"[", b"{", b"|", b"%", b"`"})
"""Signs that most texts do without."""


Need = frozenset[bytes]
"""Literals (UTF-8) of which at least one occurs in every match."""


@dataclass(frozen=True, slots=True)
class Compiled:
    """One alternative of a pattern, translated."""

    loose: bytes
    """RE2 source over UTF-8 bytes read as Latin-1, gaps not counted; matches wherever ``exact`` does."""
    exact: bytes | None
    """RE2 source with gaps counted; ``None`` if there are none."""
    needs: frozenset[Need]
    """What occurs in every match; empty if nothing in particular."""
    local: bool
    """Whether no match reaches over a full stop, question mark or exclamation mark."""


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of a pattern that always occurs where its surroundings do: one of the literals."""

    literals: Need

    @property
    def strength(self) -> int:
        """Bytes of the shortest literal: the longer, the rarer."""
        return min(map(len, self.literals))


class Language:
    """Translates patterns for one set of fragments and one variant. Keeps fragments translated; not thread-safe."""

    def __init__(self, fragments: Mapping[str, str], variant: Variant = "words") -> None:
        self.variant: Variant = variant
        self._fragments = fragments
        self._translated: dict[tuple[str, bool], tuple[str, _Part | None, bool]] = {}
        self._open: list[str] = []

    def translate(self, pattern: str) -> Iterator[Compiled]:
        """Translate one pattern, each top-level alternative for itself.

        Raises:
            PatternError: unknown fragment, fragments in a circle, unbalanced brackets, or a character class that RE2
                could only match byte by byte (a negated class or a range with Chinese characters).
        """
        translator = _Translator(pattern, self)
        loose = translator.alternatives()
        exact = _Translator(pattern, self, counting=True).alternatives()
        for (source, parts), (counted, _) in zip(loose, exact, strict=True):
            needs = frozenset(part.literals for part in parts)
            yield Compiled(
                source.encode(),
                None if counted == source else counted.encode(),
                needs,
                not translator.crosses,
            )

    def fragment(self, name: str, *, counting: bool) -> tuple[str, _Part | None, bool]:
        """A fragment's source, gaps counted or not, what always occurs in it, and whether it crosses sentences."""
        key = name, counting
        if key not in self._translated:
            if name not in self._fragments:
                raise PatternError(f"unknown fragment {name}")
            if name in self._open:
                raise PatternError(f"fragments refer to each other in a circle: {', '.join(self._open)}")
            self._open.append(name)
            fragment = _Translator(self._fragments[name], self, counting=counting)
            self._translated[key] = (*_group(fragment.alternatives()), fragment.crosses)
            self._open.pop()
        return self._translated[key]


class _Translator:
    """Recursive descent over the tokens of one pattern or fragment."""

    def __init__(self, pattern: str, language: Language, *, counting: bool = False) -> None:
        self._tokens: list[str] = _TOKEN.findall(pattern)
        self._at = 0
        self._language = language
        self._variant: Variant = language.variant
        self._counting = counting
        #: Whether something in it matches a full stop or the like, so that a match may span sentences.
        self.crosses = False

    def alternatives(self) -> list[tuple[str, list[_Part]]]:
        """All alternatives of the whole, each with its source and the parts that always occur in it."""
        found = self._alternation()
        if self._at < len(self._tokens):
            raise PatternError("unbalanced brackets")
        return found

    def _alternation(self) -> list[tuple[str, list[_Part]]]:
        found = [self._sequence()]
        while self._at < len(self._tokens) and self._tokens[self._at] == "|":
            self._at += 1
            found.append(self._sequence())
        return found

    def _sequence(self) -> tuple[str, list[_Part]]:
        out: list[str] = []
        parts: list[_Part] = []
        literal: list[str] = []
        while self._at < len(self._tokens) and self._tokens[self._at] not in ("|", ")"):
            token = self._tokens[self._at]
            source, inner = self._item(token)
            quantifier = ""
            if self._at < len(self._tokens) and _QUANTIFIER.fullmatch(self._tokens[self._at]):
                quantifier = self._tokens[self._at]
                self._at += 1
            out += [source, quantifier]
            if quantifier == "" and _LITERAL.fullmatch(token):
                literal.append(source.removeprefix("\\") if token.isascii() else token)
                continue
            _flush(literal, parts)
            if inner is not None and not quantifier.startswith(("?", "*", "{0")):
                parts.append(inner)
        _flush(literal, parts)
        return "".join(out), parts

    def _item(self, token: str) -> tuple[str, _Part | None]:
        """The source of one item and, for groups and fragments, what always occurs in it."""
        self._at += 1
        if token in ("(?:", "("):
            alternatives = self._alternation()
            if self._at >= len(self._tokens):
                raise PatternError("unbalanced brackets")
            self._at += 1
            return _group(alternatives)
        if _NAMED.fullmatch(token):
            if token in _EDGES:
                return _EDGES[token], None
            source, part, crosses = self._language.fragment(token[1:-1], counting=self._counting)
            self.crosses |= crosses
            return source, part
        return self._plain(token), None

    def _plain(self, token: str) -> str:
        if token.isspace():
            return _BLANK[self._variant]
        if token.startswith(r"\b") and self._variant == "compact":
            return ""
        if _GAP.fullmatch(token):
            return self._gap(token)
        if token in _CROSSING:
            self.crosses = True
        if token.startswith("_"):
            return "-"  # that is what the normaliser makes of it
        if token[0] == "[" and len(token) > 1:
            self.crosses |= _class_crosses(token)
            return _byte_class(token)
        # A following ? or * must mean the whole character, not its last byte; nothing follows a run.
        return token if token.isascii() or len(token) > 1 else f"(?:{token})"

    def _gap(self, token: str) -> str:
        kind, _, number = token[1:-1].partition(":")
        count = int(number)
        if kind == "span":
            return f"[^\\n]{{0,{count}}}?" if self._counting else "[^\\n]*?"
        if kind == "zgap":
            return f"[^.!?\\n]{{0,{3 * count}}}?" if self._counting else "[^.!?\\n]*?"
        if not self._counting:
            return "[^.!?]*?"
        if kind == "clause":
            return f"[^.!?]{{0,{count}}}?"
        if self._variant == "compact":
            return f"[^.!?]{{0,{6 * count}}}?"
        return f"(?:[^\\s.!?]+{_SEPARATOR}+){{0,{count}}}?"


def _flush(literal: list[str], parts: list[_Part]) -> None:
    text = "".join(literal).encode()
    literal.clear()
    if len(text) >= _MIN_LITERAL or text in RARE_SIGNS:
        parts.append(_Part(frozenset((text,))))


def _group(alternatives: list[tuple[str, list[_Part]]]) -> tuple[str, _Part | None]:
    """The group's source and, if every alternative has a part, the strongest of each as one need."""
    source = "(?:" + "|".join(text for text, _ in alternatives) + ")"
    if not all(parts for _, parts in alternatives):
        return source, None
    strongest = (max(parts, key=lambda part: part.strength).literals for _, parts in alternatives)
    return source, _Part(frozenset(literal for literals in strongest for literal in literals))


def _class_crosses(token: str) -> bool:
    inside = token[1:-1]
    if inside.startswith("^"):
        return not set(".!?") <= set(inside)
    return not set(".!?").isdisjoint(inside) or any(escape in inside for escape in (r"\W", r"\S", r"\D"))


def _byte_class(token: str) -> str:
    """A class with Chinese characters, rewritten as an alternation, because matching is by bytes."""
    if "_" in token:
        # A hyphen means itself at the end of a class.
        token = token.replace("_", "").removesuffix("]").removesuffix("-") + "-]"
    if token.isascii():
        return token
    body = token[1:-1]
    if body.startswith("^") or re.search(r"[^\x00-\x7f]-|-[^\x00-\x7f]", body):
        raise PatternError("a class with non-ASCII characters can be neither negated nor a range")
    wide = [c for c in body if not c.isascii()]
    narrow = "".join(c for c in body if c.isascii())
    return "(?:" + "|".join([*([f"[{narrow}]"] if narrow else []), *wide]) + ")"
