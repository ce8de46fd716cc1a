"""Lengths and shapes: what is wrong with a text before anybody reads it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from sparkle.llm.policy import InputLimits
from sparkle.llm.safety.fold import GONE, fold

TEXT_TOO_LONG = "shape.text_too_long"
TOTAL_TOO_LONG = "shape.total_too_long"
TOO_MANY_MESSAGES = "shape.too_many_messages"
TOO_MANY_PARTS = "shape.too_many_parts"
TOO_MANY_STRINGS = "shape.too_many_strings"
COMBINING_RUN = "shape.combining_run"
INVISIBLE_RATIO = "shape.invisible_ratio"
CONTROL_CHARACTERS = "shape.control_characters"
BIDI_OVERRIDE = "shape.bidi_override"
HIDDEN_TEXT = "injection.obfuscation.hidden_text"
TOO_MANY_LAYERS = "injection.obfuscation.too_many_layers"

MIN_INVISIBLE = 8
"""Fewer invisible characters than this never make a ratio."""

_COMBINING = "\u0300-\u036f\u0483-\u0489\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
# Only invisible characters behind a letter count: emoji are full of joiners and selectors, words are not.
_INVISIBLE = re.compile(
    "(?<=\\w)[\u00ad\u034f\u061c\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff]+"
)
_BIDI = re.compile("[\u202d\u202e]")
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0e-\x1f\x7f]+")
_TAG_TEXT = re.compile(
    "(?<![\U0001f3f4\U000e0020-\U000e007e])[\U000e0020-\U000e007e]{4,}|\U0001f3f4[\U000e0020-\U000e007e]{9,}"
)


@dataclass(frozen=True, slots=True)
class ShapeHit:
    """A shape rule met at ``start:end`` (code points)."""

    rule: str
    start: int
    end: int


def text_length(text: str, limits: InputLimits) -> ShapeHit | None:
    """Whether one text is too long; the span is the part beyond the limit."""
    if len(text) > limits.max_text_chars:
        return ShapeHit(TEXT_TOO_LONG, limits.max_text_chars, len(text))
    return None


def odd_characters(text: str, limits: InputLimits) -> Iterator[ShapeHit]:
    """Stacked accents, invisible characters between letters, controls, reversed writing direction, hidden text."""
    control = _CONTROL.search(text)
    if control is not None:
        yield ShapeHit(CONTROL_CHARACTERS, *control.span())
    if text.isascii() or GONE not in fold(text):
        return
    stacked = re.search(f"[{_COMBINING}]{{{limits.max_combining_run + 1},}}", text)
    if stacked is not None:
        yield ShapeHit(COMBINING_RUN, *stacked.span())
    count, first, last = 0, 0, 0
    for match in _INVISIBLE.finditer(text):
        first = match.start() if not count else first
        last = match.end()
        count += last - match.start()
    if count >= MIN_INVISIBLE and count > limits.max_invisible_ratio * len(text):
        yield ShapeHit(INVISIBLE_RATIO, first, last)
    direction = _BIDI.search(text)
    if direction is not None:
        yield ShapeHit(BIDI_OVERRIDE, *direction.span())
    hidden = _TAG_TEXT.search(text)
    if hidden is not None:
        yield ShapeHit(HIDDEN_TEXT, *hidden.span())
