"""Other languages and other ways to write Chinese."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from sparkle.redteam.evasion import (
    Evasion,
    Messages,
    Mutate,
    chinese_only,
    has_latin,
    is_chinese,
    latin_only,
    of_text,
    said,
)
from sparkle.redteam.seeds import Seed
from sparkle.redteam.tables import letters

LANGUAGES: Mapping[str, str] = {
    "zh": "Chinese", "es": "Spanish", "fr": "French", "de": "German", "pt": "Portuguese", "ru": "Russian",
    "ja": "Japanese", "ko": "Korean", "ar": "Arabic", "hi": "Hindi",
}  # fmt: skip
_KNOWN_SHARE = 0.85
"""Of a text's Chinese characters the tables must know so many, or the evasion does not apply."""


def _translated(code: str, name: str) -> Evasion:
    def mutate(seed: Seed, rng: Random) -> Messages | None:
        text = seed.translations.get(code)
        return None if text is None else said(seed.role, text)

    return Evasion(f"translation_{code}", "language", f"translated into {name}", mutate)


def _half_translated(seed: Seed, rng: Random) -> Messages | None:
    """The sentence in two languages, one after the other half."""
    other = seed.translations.get("zh")
    if other is None or not has_latin(seed.text):
        return None
    words = seed.text.split()
    return said(seed.role, " ".join(words[: len(words) // 2]) + "，" + other[len(other) // 2 :])


def _mixed_scripts(text: str, rng: Random) -> str:
    """Every second word in letters of another script that look the same."""
    table = letters().homoglyphs
    words = text.split(" ")
    return " ".join(
        "".join(table.get(c, c) for c in word) if index % 2 else word for index, word in enumerate(words)
    )


def _replaced(table: Mapping[str, str], *, all_known: bool = False, join: str = "") -> Mutate:
    def mutate(text: str, rng: Random) -> str | None:
        chinese = [char for char in text if is_chinese(char)]
        known = sum(char in table for char in chinese)
        if known == 0 or (all_known and known < len(chinese) * _KNOWN_SHARE):
            return None
        return join.join(table.get(char, char) for char in text)

    return chinese_only(mutate)


def _toned(reading: str, rng: Random) -> str:
    for vowel in "aoeüiu":
        if vowel in reading:
            return reading.replace(vowel, rng.choice(letters().tones[vowel]), 1)
    return reading


def _pinyin_with_tones(text: str, rng: Random) -> str | None:
    readings = letters().readings()
    chinese = [char for char in text if is_chinese(char)]
    if sum(char in readings for char in chinese) < len(chinese) * _KNOWN_SHARE:
        return None
    return " ".join(_toned(readings[c], rng) if c in readings else c for c in text)


def _pinyin_some(text: str, rng: Random) -> str | None:
    """Every second pair of characters in pinyin, the rest in characters."""
    readings = letters().readings()
    return "".join(
        readings[char] if char in readings and index // 2 % 2 else char for index, char in enumerate(text)
    )


def evasions() -> tuple[Evasion, ...]:
    """The families ``language`` and ``chinese``."""
    tables = letters()
    readings = tables.readings()
    return (
        *(_translated(code, name) for code, name in LANGUAGES.items()),
        Evasion("translation_half", "language", "first half English, second half Chinese", _half_translated),
        of_text("mixed_scripts", "language", "every second word in another script", latin_only(_mixed_scripts)),
        of_text("traditional", "chinese", "traditional characters", _replaced(tables.old_forms())),
        of_text("pinyin", "chinese", "pinyin without tones", _replaced(readings, all_known=True, join=" ")),
        of_text("pinyin_joined", "chinese", "pinyin without blanks", _replaced(readings, all_known=True)),
        of_text("pinyin_tones", "chinese", "pinyin with tone marks", chinese_only(_pinyin_with_tones)),
        of_text("pinyin_some", "chinese", "half pinyin, half characters", chinese_only(_pinyin_some)),
        of_text("character_parts", "chinese", "characters taken apart", _replaced(tables.parts)),
        of_text("homophones", "chinese", "other characters that sound the same", _replaced(tables.homophones)),
    )  # fmt: skip
