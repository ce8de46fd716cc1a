"""Where the deep tier cuts a text: sentences and lines, short ones put together, long ones cut."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from sparkle.llm.safety.classifier_features import token_spans
from sparkle.llm.safety.views import View

SHORT = 60
"""Pieces shorter than this, in code points, are put together with the next."""

LONG = 240
"""Pieces longer than this are cut, at a blank if there is one."""

_STOP = re.compile(r"[.!?;。！？；](?=[\s\"'”’)\]]|$|[^\x00-\x7f])|[。！？；\n]")


def segments(text: str) -> list[tuple[int, int]]:
    """The code points ``start:end`` of each segment, in order; a text without words is one segment.

    A Chinese character says about as much as three letters, so lengths count bytes beyond Latin.
    """
    found: list[tuple[int, int]] = []
    start = 0
    ascii_ = text.isascii()
    short, long = (SHORT, LONG) if ascii_ else _limits(text)
    for stop in _STOP.finditer(text):
        end = stop.end()
        if end - start >= short:
            _add(found, text, start, end, long)
            start = end
    if start < len(text):
        if found and len(text) - start < short // 3:
            found[-1] = (found[-1][0], len(text))
        else:
            _add(found, text, start, len(text), long)
    return found or [(0, len(text))]


def _limits(text: str) -> tuple[int, int]:
    # Bytes a character: 1 Latin, 2 Cyrillic or Arabic, 3 Chinese, which alone is that dense.
    dense = len(text.encode("utf-8", "replace")) / len(text) > 2.2
    return (SHORT // 3, LONG // 3) if dense else (SHORT, LONG)


def _add(found: list[tuple[int, int]], text: str, start: int, end: int, long: int) -> None:
    while end - start > long * 1.25:
        blank = text.rfind(" ", start + long // 2, start + long)
        cut = blank if blank > 0 else start + long
        found.append((start, cut))
        start = cut
    if text[start:end].strip():
        found.append((start, end))


def size(text: str) -> int:
    """Bytes of a text, which say better than characters how many word pieces it has."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "replace"))


def places(view: View, windows: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int]]:
    """The code points of a reading that its windows (tokens ``first:last``) stand for."""
    spans = token_spans(view.data)
    for first, last in windows:
        yield view.characters(spans[first][0], spans[last - 1][1])


def touched(
    text: str, cut: Sequence[tuple[int, int]], where: Iterable[tuple[int, int]], room: int
) -> list[int]:
    """Indices of the segments ``cut`` that the places ``where`` touch, in order; at least one.

    Those of the first place are chosen first, until ``room`` bytes are full.
    """
    chosen: set[int] = set()
    for first, last in where:
        for index, (start, end) in enumerate(cut):
            if start < last and first < end and index not in chosen:
                room -= size(text[start:end])
                if room < 0 and chosen:
                    return sorted(chosen)
                chosen.add(index)
    return sorted(chosen) or [0]
