"""The first word of an answer, which must not wait for the second one."""

from __future__ import annotations

import re
from functools import lru_cache
from importlib import resources

import msgspec


class _Openers(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    words: str


@lru_cache(maxsize=1)
def _pattern() -> re.Pattern[str]:
    data = resources.files("sparkle.llm.output").joinpath("data", "openers.yaml").read_bytes()
    words = msgspec.yaml.decode(data, type=_Openers).words.split()
    longest_first = sorted(set(words), key=lambda w: (-len(w), w))
    return re.compile(r"[*_#>`]{0,4}(?:" + "|".join(map(re.escape, longest_first)) + ")?")


def opening(text: str) -> int:
    """Length of the marks and the common word that a text begins with.

    It only grows when the text goes on, so what it names may leave at once: a value that began in it is redacted from
    its end on, in a stream and in a whole text alike.
    """
    match = _pattern().match(text)
    return match.end() if match else 0
