"""Hard texts for the output guard: one near miss packed alone, signs that never repeat, and a search for worse ones.

All near misses of a rule in turn are milder than the shortest of them alone, and repeated text is milder than text
that never repeats, because an automaton has built all its states after a few hundred characters.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterator

from sparkle.llm.output.rule_files import load_rule_files
from sparkle.llm.output.samples import expand

SEPARATORS = (" ", "\n", ",", "(", "|")
_SAMPLE = 70_000
_SUSPECT = 0.12
"""Seconds a megabyte, from which on a sample is measured at full size."""
_DIGIT = re.compile("[0-9]")
_DIGITS, _HEX = "0123456789", "0123456789abcdef"
_UPPER = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_WORDS = {
    "words about phones": "phone|call me|desk|card|account|id number|ssn|passport| a| b|\n|:|账号|手机|0|1",
    "words about passwords": "password|token|key| is| for| of| a|x|=|:| |pwd|://|@|api_|secret|auth",
}

Measure = Callable[[str], float]
"""Processor seconds of judging a text."""


def alone(size: int) -> Iterator[tuple[str, str, str]]:
    """Rule, near miss and ``size`` bytes of nothing else, for each near miss of each rule."""
    for rule in load_rule_files().rules:
        for template in rule.counterexamples:
            yield rule.id, template, _repeated(expand(template, random.Random(5)) + " ", size)


def varied(size: int) -> dict[str, str]:
    """Texts of about ``size`` bytes whose signs never repeat, by name."""
    rng = random.Random(7)
    texts = {
        "figures": _groups(rng, _DIGITS, 20, size),
        "figures and gaps": "".join(rng.choices(_DIGITS * 3 + " -.()+", k=size)),
        "hexadecimal words": _groups(rng, _HEX, 40, size),
        "capitals and figures": "".join(rng.choices(_HEX.upper(), k=size)),
        "letters and signs": "".join(rng.choices(_UPPER + _UPPER.lower() + _DIGITS + "-_./:=@+ ", k=size)),
    }
    for name, words in _WORDS.items():
        texts[name] = "".join(rng.choices(words.split("|"), k=size // 4))
    return texts


def search(measure: Measure, size: int, seed: int = 7) -> Iterator[tuple[float, str, str]]:
    """Seconds, rule and description of every small text that is slow when packed: examples and near misses of every
    rule, as they are, filled anew each time, and with figures changed, with different signs between them."""
    rng = random.Random(seed)
    for rule in load_rule_files().rules:
        for template in (*rule.examples, *rule.counterexamples):
            for way in ("repeated", "filled anew", "figures changed"):
                sample = {sep: _packed(template, sep, way, _SAMPLE, rng) for sep in SEPARATORS}
                worst = max(SEPARATORS, key=lambda sep: measure(sample[sep]) / len(sample[sep].encode()))
                if measure(sample[worst]) / len(sample[worst].encode()) * 1e6 > _SUSPECT:
                    text = _packed(template, worst, way, size, rng)
                    yield min(measure(text), measure(text)), rule.id, f"{template + worst!r} {way}"


def _repeated(unit: str, size: int) -> str:
    return unit * (size // len(unit.encode()) + 1)


def _groups(rng: random.Random, signs: str, longest: int, size: int) -> str:
    parts: list[str] = []
    left = size
    while left > 0:
        parts.append("".join(rng.choices(signs, k=rng.randint(1, longest))))
        left -= len(parts[-1]) + 1
    return " ".join(parts)


def _packed(template: str, separator: str, way: str, size: int, rng: random.Random) -> str:
    if way == "repeated":
        return _repeated(expand(template, random.Random(5)) + separator, size)
    parts: list[str] = []
    left = size
    while left > 0:
        part = expand(template, rng)
        if way == "figures changed":
            part = _DIGIT.sub(lambda m: rng.choice(_DIGITS) if rng.random() < 0.3 else m.group(), part)
        parts.append(part + separator)
        left -= len(parts[-1].encode())
    return "".join(parts)
