"""The English and Chinese training lines that the project writes itself: schema, repetitions, balance, generators."""

from __future__ import annotations

import random
import re
from collections import Counter
from typing import TYPE_CHECKING

import msgspec
import pytest
from tests.support.seeds import Line
from training.seeds.enzh import (
    grammar_direct,
    grammar_documents,
    grammar_encoded,
    grammar_hijack,
    grammar_roleplay,
)
from training.seeds.enzh.expand import BANKS, Bank, BankError, load_bank

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from training.seeds.enzh.expand import Row

    Generate = Callable[[random.Random | int, int], Iterator[Row]]

FOLDER = BANKS.parent
FILES = sorted(FOLDER.glob("*.jsonl"))
GENERATORS: list[Generate] = [
    grammar_direct.generate,
    grammar_documents.generate,
    grammar_encoded.generate,
    grammar_hijack.generate,
    grammar_roleplay.generate,
]


def lines(path: Path) -> list[Line]:
    return [msgspec.json.decode(raw, type=Line) for raw in path.read_bytes().splitlines()]


def every_line() -> list[Line]:
    return [line for path in FILES for line in lines(path)]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_each_line_names_its_file_one_label_and_a_language(path: Path) -> None:
    rows = lines(path)
    assert {row.source for row in rows} == {f"own_{path.stem}"}
    assert {row.lang for row in rows} <= {"en", "zh"}
    assert {row.label for row in rows} == {0 if path.stem.endswith("_ok") else 1}
    assert all(row.text.strip() and row.family and row.style for row in rows)


def test_chinese_lines_are_marked_as_chinese_and_no_others_are() -> None:
    for row in every_line():
        if (
            row.family != "encoded"
            and row.style != "odd_shapes"
            and re.search(r"[\u4e00-\u9fff]{6}", row.text)
        ):
            assert row.lang == "zh", row.text


def test_no_line_stands_twice_whatever_its_case_and_punctuation() -> None:
    seen = Counter(re.sub(r"\W+", "", row.text.casefold()) or row.text for row in every_line())
    assert [text for text, times in seen.items() if times > 1] == []


def test_both_labels_are_balanced_in_each_language() -> None:
    counts = Counter((row.lang, row.label) for row in every_line())
    assert sum(counts.values()) >= 2_000
    for lang in ("en", "zh"):
        attacks, harmless = counts[lang, 1], counts[lang, 0]
        assert 0.8 <= harmless / attacks <= 1.6


@pytest.mark.parametrize("generate", GENERATORS, ids=lambda generate: generate.__module__.rpartition(".")[2])
def test_a_generator_gives_the_same_balanced_rows_for_the_same_seed(generate: Generate) -> None:
    first = list(generate(random.Random(5), 200))
    assert first == list(generate(5, 200))
    assert first != list(generate(6, 200))
    assert set(Counter((row["lang"], row["label"]) for row in first).values()) == {50}
    assert len({row["text"] for row in first}) == 200
    assert not [row["text"] for row in first if re.search(r"[«»]|PAYLOAD", row["text"])]


@pytest.mark.parametrize("path", sorted(BANKS.glob("*.yaml")), ids=lambda path: path.stem)
def test_a_bank_has_no_empty_slot_and_no_template_twice(path: Path) -> None:
    bank = load_bank(path.stem)
    for slot, templates in bank.slots.items():
        assert templates, slot
    for side in ("attack", "benign"):
        assert any(slot.startswith(side) for slot in bank.slots)


def test_a_bank_that_names_an_unknown_slot_is_refused_with_its_name() -> None:
    with pytest.raises(BankError, match="no slot colour"):
        Bank("shop", {"attack.order": ["a «colour» lamp"]})


def test_slots_that_nest_without_end_are_refused() -> None:
    with pytest.raises(BankError, match="nest deeper"):
        Bank("loop", {"attack.a": ["«attack.a» again"]}).pick(random.Random(0), "attack.a")


def test_an_alternative_may_hold_a_slot_of_its_own() -> None:
    bank = Bank("inn", {"attack.a": ["«say «name»|say «name»»"], "name": ["Orla"]})
    assert bank.pick(random.Random(0), "attack.a") == "say Orla"
