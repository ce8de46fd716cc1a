"""Blanks put back where somebody left them out: ``ignoreallpreviousinstructions``.

Rules for text without blanks need no words, but everything else that reads does: the classifier, and rules whose words
are only words where they stand alone. The most likely words are found with a list of English words by frequency
(``data/english_words.txt``, counted in public texts), for runs of letters too long to be one word.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache

from sparkle.llm.safety.resources import read_data
from sparkle.llm.safety.views import Run, View

RUN = rb"[a-z]{24}"
"""Asks for this reading: no English word has so many letters."""

MAX_LETTERS = 6_000
"""Letters of one reading that are taken apart; whoever writes more without a blank has it read as it stands."""

_RUN = re.compile(r"[a-z]{10,}")
_LONGEST = 16
_UNKNOWN = 11.0
"""What a letter costs that belongs to no word; a word costs the logarithm of its rank."""
_MOST_UNKNOWN = 6
"""One letter of so many may belong to no word, or the run is taken for something else."""


@lru_cache(maxsize=1)
def english_words() -> dict[str, float]:
    """English words, lower case, with what each costs: the rarer the more. Read once, when first needed."""
    words = read_data("english_words.txt").decode().split()
    spread = math.log(len(words))
    return {word: math.log((rank + 2) * spread) for rank, word in enumerate(words)}


def segmented(view: View) -> Iterator[Run]:
    """Runs of letters and the words that they are made of."""
    left = MAX_LETTERS
    for match in _RUN.finditer(view.text):
        letters = match.group()
        left -= len(letters)
        if left < 0:
            return
        words = split(letters)
        if words is not None and len(words) > 1:
            yield match.start(), match.end(), " ".join(words)


def split(letters: str) -> list[str] | None:
    """The most likely words of a lower-case run of letters, in time linear in its length; ``None``: it is none."""
    known = english_words()
    best = [0.0]
    chosen = [0]
    for end in range(1, len(letters) + 1):
        cost, begin = best[end - 1] + _UNKNOWN, end - 1
        for start in range(max(end - _LONGEST, 0), end):
            word = known.get(letters[start:end])
            if word is not None and best[start] + word < cost:
                cost, begin = best[start] + word, start
        best.append(cost)
        chosen.append(begin)
    words: list[str] = []
    end = len(letters)
    unknown = 0
    while end > 0:
        word = letters[chosen[end] : end]
        if word in known:
            words.append(word)
        else:
            unknown += 1
            # Letters of no word stay together.
            if words and words[-1] not in known:
                words[-1] = word + words[-1]
            else:
                words.append(word)
        end = chosen[end]
    return None if unknown * _MOST_UNKNOWN > len(letters) else words[::-1]
