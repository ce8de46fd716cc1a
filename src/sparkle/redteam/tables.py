"""The tables that mutations are made with (``data/letters.yaml``)."""

from __future__ import annotations

from functools import lru_cache

import msgspec
from msgspec import Struct

from sparkle.redteam.seeds import read_package_data


class Letters(Struct, frozen=True, forbid_unknown_fields=True):
    """Letters and what is written in their place."""

    homoglyphs: dict[str, str]
    leet: dict[str, str]
    leet_signs: dict[str, str]
    small_capitals: dict[str, str]
    upside_down: dict[str, str]
    accents: dict[str, str]
    neighbours: dict[str, str]
    phonetic: tuple[tuple[str, str], ...]
    morse: dict[str, str]
    radio: dict[str, str]
    pinyin: str
    tones: dict[str, str]
    traditional: str
    parts: dict[str, str]
    homophones: dict[str, str]

    def readings(self) -> dict[str, str]:
        """Chinese character to its reading in pinyin, without tone."""
        return {item[0]: item[1:] for item in self.pinyin.split()}

    def old_forms(self) -> dict[str, str]:
        """Simplified character to its traditional form."""
        return {item[0]: item[1] for item in self.traditional.split()}


@lru_cache(maxsize=1)
def letters() -> Letters:
    """The tables, read once."""
    return msgspec.yaml.decode(read_package_data("letters.yaml"), type=Letters)
