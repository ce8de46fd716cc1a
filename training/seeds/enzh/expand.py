"""Expands the slot banks of this folder into texts, the same ones for the same random state.

A bank (``banks/*.yaml``) maps a slot's name to its templates. In a template ``«name»`` is filled from that slot and
``«a|b|c»`` with one of the written alternatives, both to any depth. Roots are the slots named ``attack.*`` and
``benign.*``; what follows the dot is the style of the row.
"""

from __future__ import annotations

import random
import re
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

import msgspec

if TYPE_CHECKING:
    from collections.abc import Mapping

BANKS = Path(__file__).parent / "banks"
MAX_DEPTH = 12
DEFAULT_COUNT = 3_000
GIVEN = frozenset({"insert", "body", "codec"})  # slots a generator fills itself
_SLOT = re.compile(r"«([^«»]*)»")
_HAN_GAP = re.compile(
    r"(?<=[\u4e00-\u9fff，。：；！？、“”《》（）]) +(?=[\u4e00-\u9fff，。：；！？、“”《》（）])"
)

Side = Literal["attack", "benign"]


class Row(TypedDict):
    """One line of training data, as `training/seeds/**/*.jsonl` holds it."""

    text: str
    label: int
    lang: str
    family: str
    style: str
    source: str


class BankError(ValueError):
    """A bank names a slot it does not hold, or nests slots without end."""


class Bank:
    """One bank, read and checked.

    Raises `BankError` on construction when a template names a slot that the bank does not hold.
    """

    def __init__(self, name: str, slots: dict[str, list[str]]) -> None:
        self.name = name
        self.slots = slots
        self._roots: dict[Side, list[str]] = {
            "attack": sorted(slot for slot in slots if slot.startswith("attack.")),
            "benign": sorted(slot for slot in slots if slot.startswith("benign.")),
        }
        missing = sorted(self.referenced() - set(slots) - GIVEN)
        if missing:
            raise BankError(f"bank {name}: no slot {', '.join(missing)}; add it to banks/{name}.yaml")

    def referenced(self) -> set[str]:
        """The names of all slots that some template asks for."""
        inner = (
            match for templates in self.slots.values() for text in templates for match in _SLOT.findall(text)
        )
        return {name for name in inner if "|" not in name}

    def roots(self, side: Side) -> list[str]:
        """The slots from which rows of this side start, in a fixed order."""
        return self._roots[side]

    def pick(self, rng: random.Random, slot: str, given: Mapping[str, str] | None = None) -> str:
        """One expansion of ``slot``; slots named in ``given`` take that text as it is.

        Raises `BankError` when templates nest deeper than `MAX_DEPTH`.
        """
        return self.fill(rng, f"«{slot}»", given)

    def fill(self, rng: random.Random, template: str, given: Mapping[str, str] | None = None) -> str:
        """The template with all of its slots filled. Raises `BankError` as `pick` does."""
        return self._expand(rng, template, given or {}, 0)

    def _expand(self, rng: random.Random, text: str, given: Mapping[str, str], depth: int) -> str:
        if depth > MAX_DEPTH:
            raise BankError(f"bank {self.name}: slots nest deeper than {MAX_DEPTH} levels")

        def fill(match: re.Match[str]) -> str:
            inner = match.group(1)
            if "|" in inner:
                return rng.choice(inner.split("|"))
            if inner in given:
                return given[inner]
            return self._expand(rng, rng.choice(self.slots[inner]), given, depth + 1)

        filled = _SLOT.sub(fill, text)
        # An alternative may itself hold a slot: the inner one is filled first, the outer one in the next round.
        return self._expand(rng, filled, given, depth + 1) if _SLOT.search(filled) else filled


@lru_cache(maxsize=32)
def load_bank(name: str) -> Bank:
    """The bank ``banks/{name}.yaml``. Raises `BankError` or `msgspec.ValidationError` when it is malformed."""
    raw = (BANKS / f"{name}.yaml").read_bytes()
    return Bank(name, msgspec.yaml.decode(raw, type=dict[str, list[str]]))


def seeded(rng: random.Random | int) -> random.Random:
    """The given source of randomness, or one made from a seed."""
    return random.Random(rng) if isinstance(rng, int) else rng


def tidy(text: str) -> str:
    """The text without the doubled spaces and blanks before a stop that filling slots leaves behind."""
    text = _HAN_GAP.sub("", re.sub(r"(?<=\S)[ \t]{2,}", " ", text))
    text = re.sub(r" +([,.;:?!])", r"\1", text)
    return re.sub(r"([.?!])\.(?=\s|$)", r"\1", text).strip()


def sentence_case(text: str) -> str:
    """The text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def roughen(rng: random.Random, text: str) -> str:
    """The text as a hurried person types it, in about a third of all cases; unchanged otherwise.

    Changes letters' case, closing punctuation, or a pair of neighbouring letters; never the order of words.
    """
    roll = rng.random()
    if roll < 0.66:
        return text
    if roll < 0.78:
        return text.lower()
    if roll < 0.84:
        return text.rstrip(".!?。！？")
    if roll < 0.88:
        return (
            text.lower().rstrip(".!?。！？").replace("please", "pls").replace(" you ", " u ").replace("'", "")
        )
    if roll < 0.91:
        return text.upper()
    if roll < 0.94:
        return text + rng.choice(["!!", "??", " :)", " thx", " ...", "\n", "！！", " 🙏"])
    spots = [i for i in range(1, len(text) - 2) if text[i].isalpha() and text[i + 1].isalpha()]
    if not spots:
        return text
    at = rng.choice(spots)
    return text[:at] + text[at + 1] + text[at] + text[at + 2 :]
