"""Frames around a text: hidden in markup, carried by data or code, said in other words, buried in padding."""

from __future__ import annotations

import json
from functools import lru_cache
from random import Random
from urllib.parse import quote_plus

import msgspec
from msgspec import Struct

from sparkle.redteam.evasion import Evasion, Mutate, of_text, words_of
from sparkle.redteam.seeds import read_package_data


class _Frame(Struct, frozen=True, forbid_unknown_fields=True):
    name: str
    family: str
    about: str
    text: str = ""
    """Template around the whole text."""
    words: str = ""
    """Template around every word."""
    mark: str = ""
    """Begins every line of ``{comment}``."""


class _Frames(Struct, frozen=True, forbid_unknown_fields=True):
    frames: tuple[_Frame, ...]
    padding: dict[str, str]


@lru_cache(maxsize=1)
def _data() -> _Frames:
    return msgspec.yaml.decode(read_package_data("frames.yaml"), type=_Frames)


def _framed(frame: _Frame) -> Mutate:
    def mutate(text: str, rng: Random) -> str:
        if frame.words:
            return " ".join(frame.words.format(text=word) for word in words_of(text))
        quoted = json.dumps(text, ensure_ascii=False)
        return frame.text.format(
            text=text,
            comment=frame.mark + text,
            json=quoted,
            json_twice=json.dumps(json.dumps({"content": text}), ensure_ascii=False),
            plus=quote_plus(text),
            slug="-".join("".join(c for c in word if c.isalnum()) for word in words_of(text)),
        )

    return mutate


def filler(language: str, length: int, rng: Random) -> str:
    """Harmless prose of about ``length`` code points, its sentences in an order of chance."""
    stop = "。" if language == "zh" else ". "
    sentences = [s.strip() + stop for s in _data().padding[language].split(stop.strip()) if s.strip()]
    parts: list[str] = []
    size = 0
    while size < length:
        sentence = rng.choice(sentences)
        parts.append(sentence)
        size += len(sentence)
    return "".join(parts)


def _padded(before: int, after: int, language: str = "en") -> Mutate:
    def mutate(text: str, rng: Random) -> str:
        head = filler(language, before, rng) + "\n\n" if before else ""
        tail = "\n\n" + filler(language, after, rng) if after else ""
        return head + text + tail

    return mutate


def _in_a_sentence(text: str, rng: Random) -> str:
    """Between two sentences of a paragraph, without a break."""
    return filler("en", 1_500, rng) + text + " " + filler("en", 1_500, rng)


def evasions() -> tuple[Evasion, ...]:
    """The families ``hiding``, ``carrier``, ``paraphrase`` and ``padding``."""
    framed = tuple(of_text(f.name, f.family, f.about, _framed(f)) for f in _data().frames)
    return (
        *framed,
        of_text("padding_before", "padding", "2,000 harmless characters before it", _padded(2_000, 0)),
        of_text("padding_after", "padding", "2,000 harmless characters after it", _padded(0, 2_000)),
        of_text("padding_around", "padding", "4,000 harmless characters on each side", _padded(4_000, 4_000)),
        of_text("padding_long", "padding", "in the middle of 40,000 characters", _padded(20_000, 20_000)),
        of_text("padding_chinese", "padding", "in the middle of Chinese prose", _padded(1_500, 1_500, "zh")),
        of_text("padding_same_paragraph", "padding", "in the middle of a paragraph", _in_a_sentence),
    )
