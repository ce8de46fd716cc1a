"""What a text looks like to the rules: folded characters, runs, and where a stream may be cut.

Three kinds of characters matter.

- *Joined* characters (ASCII graphics, Latin, Greek, Cyrillic) build runs. A sensitive value is a piece of a run.
- Everything else (white space, Chinese, punctuation of Chinese, emoji) ends a run at once, so Chinese never waits.
- In a run of more than :data:`SOFT_AFTER` characters a comma, quote or bracket ends the piece as well, so that
  compact JSON does not wait for its end. No rule's pattern may match such a character (checked when rules load).

A *piece* is what lies between two such ends. Pieces are found from left to right without looking ahead, so a stream
and a whole text have the same ones.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import accumulate

from sparkle.llm.output.engine import Find, compile_re2, finder

CONTEXT = 512
"""Characters to the left of a piece that a rule may look at."""
SOFT_AFTER = 256
"""Length of a piece after which a soft end counts."""
MAX_PIECE = 8192
"""Longest piece that is held back; a longer one is redacted (fail closed)."""
MAX_DIGITS = 20
"""A number of more digits than this is no candidate for a rule about numbers."""

_ASCII_JOINED = "".join(map(chr, range(0x21, 0x7F)))
_WIDE_JOINED = "\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u024f\u0300-\u052f\u1e00-\u1eff"
JOINED = "!-~" + _WIDE_JOINED
"""Body of a character class: characters that build runs."""
SOFT = ",;\"'{}\\[\\]|"
"""Body of a character class: characters that end a long piece."""
GAP = " \u00a0\u2000-\u200a\u202f\u3000()\uff08\uff09.\\-\u2010-\u2015"
"""Body of a character class: what people put between the digits of one number."""

_RUN = re.compile(f"[{JOINED}]*")
_SOFT = re.compile(f"[{SOFT}]")
_SOLID = re.compile(f"(?![{SOFT}])[{JOINED}](?:(?![{SOFT}])[{JOINED}])*")
_ASCII_SOLID = "".join(c for c in _ASCII_JOINED if not re.match(f"[{SOFT}]", c))
_SEGMENT = re.compile(f"(?:(?![{SOFT}])[{JOINED}])*")
_WIDE = re.compile(f"[{_WIDE_JOINED}]")
_NUMBER_TAIL = re.compile(f"[+(]{{0,2}}[0-9](?:[{GAP}]{{0,3}}[0-9])*[{GAP}]{{0,3}}[{JOINED}]*\\Z")
_NUMBER_NEAR = re.compile(f"[0-9][{GAP}]{{0,3}}\\Z")
_GROUPS_TAIL = re.compile(
    r"(?<![A-Za-z0-9])([A-Z]{2}[0-9]{2}(?: [A-Z0-9]{4}){0,7}(?: [" + JOINED + r"]*)?)\Z"
)
_UPPER = re.compile("[A-Z0-9]")
_NUMBER_WINDOW = 4 * MAX_DIGITS + 16
_GROUPS_WINDOW = 48

# Folding: what a reader takes for an ASCII letter or digit, one to one. Decimal digits of the scripts that have
# their own, full-width forms, mathematical letters and digits.
_DIGIT_ZEROS = (
    0x0660, 0x06F0, 0x07C0, 0x0966, 0x09E6, 0x0A66, 0x0AE6, 0x0B66, 0x0BE6, 0x0C66, 0x0CE6, 0x0D66, 0x0E50, 0x0ED0,
    0x0F20, 0x1040, 0x17E0, 0x1810, 0xFF10, 0x1D7CE, 0x1D7D8, 0x1D7E2, 0x1D7EC, 0x1D7F6,
)  # fmt: skip
_FOLD_FROM = "".join(f"{chr(z)}-{chr(z + 9)}" for z in _DIGIT_ZEROS) + (
    "\uff21-\uff3a\uff41-\uff5a\uff20\uff3f\uff0d\uff0e\uff0b\uff0f\uff1d\u212a\U0001d400-\U0001d6a3"
)
INVISIBLE = (
    "\u00ad\u034f\u061c\u180e\u200b-\u200f\u202a-\u202e\u2060-\u2064\u2066-\u206f\u20e3\ufe00-\ufe0f\ufeff"
    "\U000e0000-\U000e007f\U000e0100-\U000e01ef"
)
"""Body of a character class: characters without a glyph of their own; rules do not see them."""
_ODD = re.compile(f"[{_FOLD_FROM}{INVISIBLE}\ud800-\udfff]")
_SHORT = 64
_SURROGATES = re.compile("[\ud800-\udfff]")
_INVISIBLE = re.compile(f"[{INVISIBLE}]")
_FOLDED = re.compile(f"[{_FOLD_FROM}]+")


def _fold_table() -> dict[int, str]:
    table = {zero + n: str(n) for zero in _DIGIT_ZEROS for n in range(10)}
    table |= {code: chr(code - 0xFEE0) for code in (*range(0xFF21, 0xFF3B), *range(0xFF41, 0xFF5B))}
    table |= {code: chr(code - 0xFEE0) for code in (0xFF20, 0xFF3F, 0xFF0D, 0xFF0E, 0xFF0B, 0xFF0F, 0xFF1D)}
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
    table |= {0x1D400 + n: letters[n % 52] for n in range(13 * 52)}
    table[0x212A] = "K"  # the Kelvin sign, which RE2 without case takes for a k
    return table


_FOLD = _fold_table()


def fold(text: str) -> tuple[str, list[int]]:
    """The text as rules see it, and the marks that lead back.

    Folding is one to one, so offsets stay; invisible characters are taken out. ``marks[k]`` is the position of the
    k-th one taken out, counted without those before it (ascending; empty for almost every text).
    """
    if text.isascii() or (len(text) <= _SHORT and not _ODD.search(text)):
        return text, []
    try:
        data = text.encode()
    except UnicodeEncodeError:  # a lone surrogate
        data = _SURROGATES.sub("\ufffd", text).encode()
        text = data.decode()
    if _odd()(data, 0) is None:  # far faster than looking at the characters here
        return text, []
    parts = _INVISIBLE.split(text)
    marks: list[int] = []
    if len(parts) > 1:
        marks = list(accumulate(map(len, parts[:-1])))
        text = "".join(parts)
    return _FOLDED.sub(lambda run: run.group().translate(_FOLD), text), marks


@lru_cache(maxsize=1)
def _odd() -> Find:
    return finder(compile_re2(f"[{_FOLD_FROM}{INVISIBLE}]", "characters to fold"))


def run_start(text: str, end: int, floor: int) -> int:
    """Start of the run that ends at ``end``, not before ``floor``; ``end`` itself when no run ends there."""
    return _start(text, end, floor, _ASCII_JOINED, _RUN)


def run_end(text: str, start: int) -> int:
    """End of the run that goes on at ``start``."""
    match = _RUN.match(text, start)
    return match.end() if match else start


def segment_start(text: str, end: int, floor: int) -> int:
    """Start of the segment that ends at ``end``: like :func:`run_start`, but soft ends count at once."""
    return _start(text, end, floor, _ASCII_SOLID, _SEGMENT)


def segment_end(text: str, start: int) -> int:
    """End of the segment that goes on at ``start``."""
    match = _SEGMENT.match(text, start)
    return match.end() if match else start


def _start(text: str, end: int, floor: int, ascii_part: str, part: re.Pattern[str]) -> int:
    step = 64
    while True:
        low = max(floor, end - step)
        kept = text[low:end].rstrip(ascii_part)
        if kept and _WIDE.match(kept[-1]):
            # Backwards, so that a run of mixed characters is walked once: stripping one kind after the other copies
            # the text each time, and megabytes of accents would take minutes.
            match = part.match(kept[::-1])
            kept = kept[: len(kept) - match.end()] if match else kept
        if kept or low == floor:
            return low + len(kept)
        step *= 8


def piece_start(text: str, start: int, position: int) -> int:
    """Start of the piece in which ``position`` stands, in a run whose piece begins at ``start``."""
    while position - start > SOFT_AFTER:
        match = _SOFT.search(text, start + SOFT_AFTER, position)
        if match is None:
            break
        start = match.end()
    return start


def settled(text: str, low: int, run: int) -> int:
    """How far from ``low`` no rule can claim a character any more, whatever follows.

    ``run`` is the start of the run at the end of the text (``len(text)`` when there is none). The answer is the
    start of a piece. Held back are the unfinished piece, a number that may go on behind its gap, and a spaced IBAN.
    """
    end = len(text)
    piece = piece_start(text, max(run, low), end) if end - max(run, low) > SOFT_AFTER else max(run, low)
    hold = piece
    near = text[max(low, piece - 4) : piece]
    if near and _NUMBER_NEAR.search(near):
        match = _NUMBER_TAIL.search(text, max(low, piece - _NUMBER_WINDOW))
        if match and match.start() < hold:
            hold = piece_at(text, low, match.start())
    if near[-1:] == " " and _UPPER.match(near[-2:-1]):
        match = _GROUPS_TAIL.search(text, max(low, piece - _GROUPS_WINDOW))
        if match and match.start(1) < hold:
            hold = piece_at(text, low, match.start(1))
    return hold


def piece_at(text: str, low: int, position: int) -> int:
    """Start of the piece in which ``position`` stands, where a piece is known to begin at or before ``low``."""
    start = run_start(text, position, low)
    return piece_start(text, start, position)


def piece_around(text: str, low: int, position: int) -> tuple[int, int]:
    """Start and end of the piece in which ``position`` stands (known to be complete)."""
    start = piece_at(text, low, position)
    end = run_end(text, position)
    soft = _SOFT.search(text, max(position, start + SOFT_AFTER), end) if end - start > SOFT_AFTER else None
    return start, soft.end() if soft else end


def oversized(text: str, low: int) -> Iterator[tuple[int, int]]:
    """Pieces of more than :data:`MAX_PIECE` characters from ``low`` on, complete or not, left to right.

    Looks at one place in 4096 characters, because such a piece covers at least one with so much of it to the right.
    """
    stride, floor, end = MAX_PIECE // 2, low, len(text)
    at = low + stride
    while at < end:
        solid = _solid_end(text, at, min(end, at + stride))
        if solid - at >= stride - SOFT_AFTER - 1 or solid == end:
            start, stop = piece_around(text, floor, at)
            if stop - start > MAX_PIECE:
                yield start, stop
                floor = stop
                at = stop
        at += stride


def _solid_end(text: str, start: int, end: int) -> int:
    match = _SOLID.match(text, start, end)
    return match.end() if match else start


def piece_end(text: str, start: int, *, soft_after: int = SOFT_AFTER) -> int:
    """End of the piece that goes on at ``start``; -1 when the text ends first."""
    end = run_end(text, start)
    soft = _SOFT.search(text, min(start + soft_after, end), end)
    if soft:
        return soft.end()
    return end if end < len(text) else -1
