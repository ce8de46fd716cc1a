"""Key terms of a text without a model: what is defined in it, and what it keeps coming back to."""

from __future__ import annotations

import re
from collections import Counter
from functools import cache
from importlib.resources import files

import msgspec

from sparkle.tasks.own.words import words

_LONGEST_TEXT = 50_000
_SENTENCE = re.compile(r"[.!?。！？；;\n]+")
_HAN = re.compile(r"[\u4e00-\u9fff]{2,}")
_LATIN = re.compile(r"[^\W\d_\u4e00-\u9fff]{2,}(?:[-'][^\W\d_]{1,30})?")
# What stands before these is being defined.
_DEFINED = re.compile(
    r"(?:^|[\s，,：:。；！？])(?:(?:a|an|the)\s+)?([^\W\d_][\w -]{0,60}?\w)\s*"
    r"(?:\s(?:is|are|means|refers to|denotes)\s|是指|指的是|称为|叫做|叫作|定义为|是一种|是一个)",
    re.IGNORECASE,
)
_HEADING = re.compile(r"^\s{0,3}(?:#{1,6}|\d{1,2}[.、)]|[-*•])\s*(\S.{0,80})$", re.MULTILINE)
_DEFINED_WEIGHT, _HEADING_WEIGHT = 6.0, 4.0


class Stopwords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """``data/terms.yaml``."""

    english: str
    chinese: str


@cache
def _stopwords() -> tuple[frozenset[str], frozenset[str]]:
    raw = files("sparkle").joinpath("tasks", "own", "data", "terms.yaml").read_bytes()
    table = msgspec.yaml.decode(raw, type=Stopwords)
    return frozenset(table.english.split()), frozenset(table.chinese.replace(" ", ""))


def key_terms(text: str, most: int, *, without: str = "") -> list[str]:
    """The terms that a text is about, the weightiest first; the same for the same text.

    Args:
        text: Any language; what comes after 50,000 characters is not read.
        most: At most so many.
        without: A title whose own words make no term.
    """
    text = text[:_LONGEST_TEXT]
    weights: dict[str, float] = {}
    shown: dict[str, str] = {}
    for weight, found in ((_DEFINED_WEIGHT, _DEFINED), (_HEADING_WEIGHT, _HEADING)):
        for match in found.finditer(text):
            _count(match[1], weight, weights, shown)
    for sentence in _SENTENCE.split(text):
        for term in _phrases(sentence):
            _count(term, 1.0, weights, shown)
    for gram, times in _repeated(text).items():
        # Chinese writes without spaces: what comes back as a whole is a word, the longer the surer.
        weights[gram] = max(weights.get(gram, 0.0), times * (len(gram) - 1))
        shown.setdefault(gram, gram)
    # Two words beside each other once are no phrase yet.
    weights = {term: weight for term, weight in weights.items() if weight > 1 or " " not in term}
    own = set(words(without))
    best = sorted(weights, key=lambda term: (-weights[term] * _length_bonus(term), term))
    chosen: list[str] = []
    for term in best:
        known = set(words(term))
        if known <= own or any(term in other or other in term for other in chosen):
            continue
        chosen.append(term)
        if len(chosen) == most:
            break
    return [shown[term] for term in chosen]


def _phrases(sentence: str) -> list[str]:
    """Runs of words that are no stop words, two or three of them together too; Chinese: stretches between them."""
    english, chinese = _stopwords()
    found: list[str] = []
    run: list[str] = []
    for word in [*(match[0] for match in _LATIN.finditer(sentence)), ""]:
        if word and word.lower() not in english and len(word) > 2:
            run.append(word)
            continue
        found += run
        found += (" ".join(run[at : at + 2]) for at in range(len(run) - 1))
        run = []
    for match in _HAN.finditer(sentence):
        stretch = "".join(" " if sign in chinese else sign for sign in match[0])
        found += (piece for piece in stretch.split() if 2 <= len(piece) <= 8)
    return found


def _repeated(text: str) -> dict[str, int]:
    """Stretches of 2 to 6 Chinese characters without function words that occur at least twice."""
    _, chinese = _stopwords()
    counted: Counter[str] = Counter()
    for match in _HAN.finditer(text):
        for stretch in "".join(" " if sign in chinese else sign for sign in match[0]).split():
            for length in range(2, min(len(stretch), 6) + 1):
                counted.update(stretch[at : at + length] for at in range(len(stretch) - length + 1))
    return {gram: times for gram, times in counted.items() if times >= 2}


def _count(term: str, weight: float, weights: dict[str, float], shown: dict[str, str]) -> None:
    english, _ = _stopwords()
    term = " ".join(term.split()).strip(" -*:：,，")
    plain = term.lower()
    if not 2 <= len(term) <= 60 or plain in english or plain.split()[0] in english:
        return
    weights[plain] = weights.get(plain, 0.0) + weight
    shown.setdefault(plain, term)


def _length_bonus(term: str) -> float:
    """A phrase says more than one of its words."""
    return 2.2 if " " in term or (len(term) >= 4 and not term.isascii()) else 1.0
