"""What an evasion is: a name, a family, and a small deterministic function from a seed to messages."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from random import Random
from typing import Any

from sparkle.redteam.seeds import Seed

Messages = tuple[Mapping[str, Any], ...]
"""A conversation in the shape of OpenAI's chat completions."""

Mutate = Callable[[str, Random], str | None]
"""A text and a source of chance to the mutated text; ``None``: it does not apply to this text."""


@dataclass(frozen=True, slots=True)
class Evasion:
    """One way to write a text so that a filter may not find it."""

    name: str
    family: str
    about: str
    """What it does, in a few words."""
    mutate: Callable[[Seed, Random], Messages | None]
    """``None``: it does not apply to the seed (pinyin of an English text)."""


def said(role: str, content: object) -> Messages:
    """One message."""
    return ({"role": role, "content": content},)


def of_text(name: str, family: str, about: str, mutate: Mutate) -> Evasion:
    """An evasion that rewrites the text and says it in the seed's role."""

    def whole(seed: Seed, rng: Random) -> Messages | None:
        text = mutate(seed.text, rng)
        return None if text is None or text == seed.text else said(seed.role, text)

    return Evasion(name, family, about, whole)


def has_latin(text: str) -> bool:
    """Whether most letters are Latin ones, so that tricks with Latin letters say something."""
    letters = [char for char in text if char.isalpha()]
    return sum(char.isascii() for char in letters) * 2 > len(letters)


def is_chinese(char: str) -> bool:
    """Whether a character is a Chinese one."""
    return "\u4e00" <= char <= "\u9fff"


def has_chinese(text: str) -> bool:
    """Whether most letters are Chinese characters."""
    letters = [char for char in text if char.isalpha()]
    return sum(map(is_chinese, letters)) * 2 > len(letters)


def words_of(text: str) -> list[str]:
    """The words between blanks; Chinese text, which has none, in pairs of characters."""
    if has_chinese(text):
        return [text[at : at + 2] for at in range(0, len(text), 2)]
    return text.split() or [text]


def latin_only(mutate: Mutate) -> Mutate:
    """The same for texts in Latin letters; others are left alone."""
    return lambda text, rng: mutate(text, rng) if has_latin(text) else None


def chinese_only(mutate: Mutate) -> Mutate:
    """The same for Chinese texts; others are left alone."""
    return lambda text, rng: mutate(text, rng) if has_chinese(text) else None
