"""The training lines of authors who wrote without generators: schema, labels, repetitions, twins."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import msgspec
import pytest
from tests.support.seeds import Line

SEEDS = Path(__file__).parents[2] / "training" / "seeds"
FILES = [
    path for author in ("indirect", "long", "plain") for path in sorted((SEEDS / author).glob("*.jsonl"))
]


def lines(path: Path) -> list[Line]:
    return [msgspec.json.decode(raw, type=Line) for raw in path.read_bytes().splitlines()]


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_a_file_holds_one_label_which_its_name_tells(path: Path) -> None:
    rows = lines(path)
    assert {row.label for row in rows} == {0 if path.stem.endswith("_ok") else 1}
    assert {row.source for row in rows} == {f"own_{path.parent.name}"}
    assert all(row.text.strip() and row.family and row.style for row in rows)
    assert all(re.fullmatch("[a-z]{2}", row.lang) for row in rows)


def test_no_line_stands_twice() -> None:
    seen = Counter(row.text.casefold().strip() for path in FILES for row in lines(path))
    assert [text for text, times in seen.items() if times > 1] == []


@pytest.mark.parametrize("author", ["indirect", "long", "plain"])
def test_every_author_wrote_more_harmless_texts_than_attacks(author: str) -> None:
    labels = Counter(row.label for path in FILES if path.parent.name == author for row in lines(path))
    assert labels[0] > labels[1] > 0
