"""Families of words find what nobody wrote down as a rule, and leave alone what only uses the same words."""

from __future__ import annotations

import base64
from pathlib import Path

import msgspec
import pytest
from msgspec import Struct

from sparkle.llm.policy import InputPolicy
from sparkle.llm.safety import LLMSafety
from sparkle.llm.verdict import Action


class Texts(Struct, forbid_unknown_fields=True):
    """``safety_paraphrases.yaml``."""

    attacks: list[str]
    harmless: list[str]


TEXTS = msgspec.yaml.decode(Path(__file__).with_name("safety_paraphrases.yaml").read_bytes(), type=Texts)
SAFETY = LLMSafety(InputPolicy())


@pytest.mark.parametrize("text", TEXTS.attacks)
def test_an_attack_in_other_words_is_found(text: str) -> None:
    assert SAFETY.check_text(text).action is Action.BLOCK


@pytest.mark.parametrize("text", TEXTS.harmless)
def test_a_harmless_text_with_the_same_words_passes(text: str) -> None:
    assert SAFETY.check_text(text).action is Action.ALLOW


def test_capitals_base64_and_full_width_hide_none_of_them() -> None:
    full_width = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}
    hidden = [
        disguised
        for text in TEXTS.attacks
        for disguised in (text.upper(), base64.b64encode(text.encode()).decode(), text.translate(full_width))
        if SAFETY.check_text(disguised).action is not Action.BLOCK
    ]
    assert len(hidden) <= len(TEXTS.attacks) * 3 // 50, hidden
