"""Words of texts in any language, and BM25 over them."""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter
from collections.abc import Sequence

# Scripts that write without spaces are cut into pairs of characters; single ones are kept too, for one-word queries.
_UNSPACED = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_RUN = re.compile(rf"[{_UNSPACED}]+|[^\W_{_UNSPACED}]+")
_FIRST_UNSPACED = re.compile(rf"[{_UNSPACED}]")

K1 = 1.2
"""How soon a repeated word counts no more (Robertson and Zaragoza 2009)."""
B = 0.75
"""How much a long document is held back."""


def words(text: str) -> list[str]:
    """Words in lower case; Chinese and Japanese as single characters and pairs of neighbours."""
    found: list[str] = []
    for match in _RUN.finditer(unicodedata.normalize("NFKC", text).lower()):
        run = match[0]
        if _FIRST_UNSPACED.match(run):
            found += run
            found += (run[at : at + 2] for at in range(len(run) - 1))
        else:
            found.append(run)
    return found


def bm25(query: str, documents: Sequence[str]) -> list[float]:
    """How well each document answers ``query``: BM25 scores, 0 and up, in the order of ``documents``."""
    counted = [Counter(words(document)) for document in documents]
    if not counted:
        return []
    lengths = [sum(count.values()) for count in counted]
    mean = sum(lengths) / len(lengths) or 1.0
    scores = [0.0] * len(counted)
    for word in set(words(query)):
        holding = sum(1 for count in counted if word in count)
        rarity = math.log(1 + (len(counted) - holding + 0.5) / (holding + 0.5))
        for at, count in enumerate(counted):
            if (times := count.get(word, 0)) > 0:
                scores[at] += rarity * times * (K1 + 1) / (times + K1 * (1 - B + B * lengths[at] / mean))
    return scores
