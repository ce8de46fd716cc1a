"""The seeds in other languages: well formed, no line twice, balanced, and composed the same way every time."""

from __future__ import annotations

import random
import unicodedata
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from tests.support.seeds import Line
from training.seeds.multilingual import grammar

FOLDER = Path(grammar.__file__).parent
CODES = "ar bn cs de el es fa fr he hi id it ja ko nl pl pt ro ru sv th tr uk vi"
LANGUAGES = [CODES[at : at + 2] for at in range(0, len(CODES), 3)]
COUNT = 2_400


def written() -> dict[str, list[Line]]:
    return {
        file.stem: [msgspec.json.decode(raw, type=Line) for raw in file.read_bytes().split(b"\n") if raw]
        for file in sorted(FOLDER.glob("*.jsonl"))
    }


def plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).lower().split())


def composed(seed: int = 5, count: int = COUNT) -> list[Line]:
    return [msgspec.convert(entry, Line) for entry in grammar.generate(random.Random(seed), count)]


def test_every_line_fits_the_schema() -> None:
    for name, lines in written().items():
        for line in lines:
            assert line.label in (0, 1)
            assert line.source == f"own_{name}"
            assert line.text.strip() == line.text != ""
            assert line.lang
            assert line.family
            assert line.style


def test_no_text_stands_twice_nor_with_two_labels() -> None:
    seen = Counter(plain(line.text) for lines in written().values() for line in lines)
    assert [text for text, times in seen.items() if times > 1] == []


@pytest.mark.parametrize("lang", LANGUAGES)
def test_each_language_has_attacks_and_more_harmless_lines(lang: str) -> None:
    lines = [line for lines in written().values() for line in lines if line.lang == lang]
    labels = Counter(line.label for line in lines)
    asked = [line for line in lines if line.family in {"secret_request", "rules_request"}]
    assert labels[1] >= 40
    assert labels[0] >= 60
    assert 1 <= labels[0] / labels[1] <= 2, "neither label may stand for the language"
    assert len(asked) >= 15
    assert sum(line.family == "override" for line in lines) >= 10


@pytest.mark.parametrize("lang", LANGUAGES)
def test_short_lines_of_a_language_bear_both_labels(lang: str) -> None:
    labels = Counter(line.label for line in written()[lang] if len(line.text) < 60)
    assert min(labels[0], labels[1]) >= 10


def test_every_language_has_its_bank() -> None:
    assert sorted(grammar.banks()) == LANGUAGES


@pytest.mark.parametrize("lang", LANGUAGES)
def test_templates_take_exactly_one_filler_and_fillers_none(lang: str) -> None:
    bank = grammar.banks()[lang]
    for template in (*bank.ask, *bank.skip):
        assert template.count("{x}") == 1
    for words in (
        bank.secret,
        bank.plain,
        bank.why,
        bank.how,
        bank.rules,
        bank.trifle,
        bank.seize,
        bank.serve,
    ):
        assert len(set(words)) == len(words)
        assert all("{" not in word for word in words)


def test_the_same_seed_composes_the_same_lines() -> None:
    assert composed(7, 480) == composed(7, 480)
    assert list(grammar.generate(7, 480)) == list(grammar.generate(random.Random(7), 480))


def test_composed_lines_are_different_and_balanced_by_language_and_form() -> None:
    lines = composed()
    assert len({line.text for line in lines}) == COUNT
    for lang, total in Counter(line.lang for line in lines).items():
        attacks = sum(line.label for line in lines if line.lang == lang)
        assert abs(2 * attacks - total) <= 1, lang
    for family, total in Counter(line.family for line in lines).items():
        attacks = sum(line.label for line in lines if line.family == family)
        assert 0.35 <= attacks / total <= 0.65, family


def test_no_composed_text_bears_two_labels() -> None:
    labels: dict[str, set[int]] = {}
    for line in [*composed(1), *(line for lines in written().values() for line in lines)]:
        labels.setdefault(plain(line.text), set()).add(line.label)
    assert [text for text, found in labels.items() if len(found) > 1] == []


def test_asking_for_more_lines_than_the_banks_hold_says_so() -> None:
    with pytest.raises(ValueError, match="ask for fewer"):
        list(grammar.generate(Stuck(), 200))


class Stuck(random.Random):
    """Chance that always falls the same way, as if a bank held one filler a slot."""

    def random(self) -> float:
        return 0.0

    def getrandbits(self, k: int, /) -> int:
        return 0
