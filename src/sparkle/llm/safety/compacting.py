"""Putting together what was pulled apart: ``i g n o r e``, ``in-struc-tions``, ``ign ore``, ``忽/略``.

Two readings. One takes out everything between the letters, so that nothing hides a word, but then words run
together. The other (:func:`respaced`) takes out only the sign that somebody put between all letters, and keeps what is
left: blanks between words, punctuation.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from itertools import chain

from sparkle.llm.safety.telltales import pulled_apart
from sparkle.llm.safety.views import View, replace_runs

_LATIN_RUN = re.compile(r"(?<![a-z0-9])[a-z0-9](?:[\W_]{1,3}[a-z0-9]){4,}(?![a-z0-9])")
_CHINESE_RUN = re.compile("[\u4e00-\u9fff]{1,2}(?:[\\W_]{1,3}[\u4e00-\u9fff]{1,2}){3,}")
_HYPHENS = re.compile(r"(?<![a-z])[a-z]{1,5}(?:[-._*|~\\]{1,2}[a-z]{1,5}){2,}(?![a-z])")
_GAP = re.compile(r"[\W_]+")
_MARKED = re.compile(rb"\x01+")
_TOKEN = re.compile(r"[a-z]{1,14}(?![a-z])")
_MOST_PIECES = 4
_MOST_GAP = 3


def compacting(words: Sequence[str], known: Collection[str]) -> Callable[[View], View | None]:
    """A reading without what stands between the letters.

    Args:
        words: words put together wherever their letters follow each other with signs between.
        known: words put together from pieces that are whole tokens, as ``fol low``.
    """
    apart = pulled_apart(words)
    whole = frozenset(word for word in known if word.isascii() and word.isalpha())

    def read(view: View) -> View | None:
        marks = bytearray(len(view.text))
        runs = (run.finditer(view.text) for run in (_LATIN_RUN, _CHINESE_RUN, _HYPHENS, apart))
        spans = chain((match.span() for match in chain(*runs)), _pieces(view.text, whole))
        for start, end in spans:
            for gap in _GAP.finditer(view.text, start, end):
                first, last = gap.span()
                marks[first:last] = b"\1" * (last - first)
        gone = ((gap.start(), gap.end(), "") for gap in _MARKED.finditer(marks))
        return replace_runs(view, "compact", gone, compact=True)

    return read


def respaced(view: View) -> View | None:
    """The view without the one sign that stands between most letters of a run; ``None``: nothing else would be left."""
    gone: list[tuple[int, int, str]] = []
    kept = False
    for run in sorted(
        match.span() for match in chain(_LATIN_RUN.finditer(view.text), _CHINESE_RUN.finditer(view.text))
    ):
        if gone and run[0] < gone[-1][1]:
            continue
        gaps = [(gap.start(), gap.group()) for gap in _GAP.finditer(view.text, *run)]
        sign, count = Counter(gap for _, gap in gaps).most_common(1)[0]
        if count * 2 <= len(gaps):
            continue
        for start, gap in gaps:
            size = len(gap)
            if gap == sign:
                gone.append((start, start + size, ""))
            elif gap == sign * (size // len(sign)):
                gone.append((start, start + size, " "))
                kept = True
            elif size > 2 * len(sign) and gap.startswith(sign) and gap.endswith(sign):
                gone += [(start, start + len(sign), ""), (start + size - len(sign), start + size, "")]
                kept = True
            else:
                kept = True
    return replace_runs(view, "respaced", gone) if kept else None


def _pieces(text: str, whole: Collection[str]) -> Iterator[tuple[int, int]]:
    """Spans of up to four neighbouring tokens that make a word, one of them at least being none by itself."""
    tokens = [match.span() for match in _TOKEN.finditer(text)]
    at = 0
    while at < len(tokens) - 1:
        joined, odd, taken = "", False, 0
        for count in range(min(_MOST_PIECES, len(tokens) - at)):
            start, end = tokens[at + count]
            if count and start - tokens[at + count - 1][1] > _MOST_GAP:
                break
            piece = text[start:end]
            joined += piece
            odd = odd or piece not in whole
            if count and odd and joined in whole:
                taken = count
        if taken:
            yield tokens[at][0], tokens[at + taken][1]
        at += taken + 1
