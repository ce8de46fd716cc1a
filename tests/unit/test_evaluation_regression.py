"""Detection does not get worse unnoticed: figures on the committed texts, and what each evasion may cost."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner
from msgspec import Struct

from sparkle.cli import main
from sparkle.evaluation.detector import Judged, judged
from sparkle.evaluation.rows import read_rows
from sparkle.llm.policy import InputPolicy
from sparkle.llm.safety import LLMSafety
from sparkle.redteam.campaign import Outcome, run_campaign
from sparkle.redteam.catalogue import catalogue
from sparkle.redteam.seeds import default_seeds

SEEDS = Path(__file__).parents[2] / "training" / "seeds"
SET = Path(__file__).parents[1] / "fixtures" / "detection"
FILES = [SET / "attacks.jsonl", SET / "harmless.jsonl"]
BLIND = SET / "blind"
BLIND_FILES = [BLIND / "attacks.jsonl", BLIND / "harmless.jsonl"]
MAX_DROP = 0.05


class Allowed(Struct, forbid_unknown_fields=True):
    """``evasions.yaml``."""

    allowed: dict[str, float]
    flagged: list[str]


class Rules:
    """The rules alone."""

    name = "rules"

    def __init__(self) -> None:
        self._safety = LLMSafety(InputPolicy())

    def judge(self, text: str, role: str) -> Judged:
        return self.judge_messages([{"role": role, "content": text}])

    def judge_messages(self, messages: Sequence[Mapping[str, Any]]) -> Judged:
        return judged(self._safety.check_messages(messages).verdict, 0.0)


@pytest.fixture(scope="module")
def outcomes() -> dict[str, Outcome]:
    campaign = run_campaign(default_seeds(), catalogue(), Rules())
    assert not campaign.plainly_missed
    assert not campaign.plainly_flagged
    return {outcome.evasion.name: outcome for outcome in campaign.outcomes}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text("utf-8").splitlines():
        yield msgspec.json.decode(line)


def _key(text: str) -> str:
    return " ".join(text.casefold().split())


ALLOWED = msgspec.yaml.decode((SET / "evasions.yaml").read_bytes(), type=Allowed)


def test_the_committed_texts_are_many_kinds_and_none_twice() -> None:
    rows = read_rows(FILES)
    assert len({row.text for row in rows}) == len(rows)
    assert sum(row.attack for row in rows) >= 150
    assert sum(not row.attack for row in rows) >= 240
    languages = Counter(row.fields["lang"] for row in rows)
    assert languages["zh"] >= 80
    assert len(languages) >= 12


def test_the_blind_texts_are_none_that_anything_learned_from() -> None:
    rows = read_rows(BLIND_FILES)
    texts = {_key(row.text) for row in rows}
    assert len(texts) == len(rows)
    assert sum(row.attack for row in rows) >= 550
    assert sum(not row.attack for row in rows) >= 1_000
    learned = {_key(row["text"]) for file in SEEDS.rglob("*.jsonl") for row in _lines(file)}
    assert not texts & learned


@pytest.mark.parametrize(("files", "folder"), [(FILES, SET), (BLIND_FILES, BLIND)])
def test_the_guard_reaches_its_floors_on_the_committed_texts(files: list[Path], folder: Path) -> None:
    result = CliRunner().invoke(
        main, ["evaluate", *map(str, files), "--floors", str(folder / "floors.yaml"), "--no-texts"]
    )
    assert result.exit_code == 0, result.stderr


def test_no_evasion_costs_more_than_it_may(outcomes: dict[str, Outcome]) -> None:
    unknown = set(ALLOWED.allowed) - set(outcomes)
    assert not unknown, "an exception names no evasion"
    cost = {name: outcome.drop or 0.0 for name, outcome in outcomes.items()}
    worse = {
        n: drop for n, drop in cost.items() if drop > max(MAX_DROP, ALLOWED.allowed.get(n, 0) / 100) + 1e-9
    }
    assert not worse


def test_no_evasion_makes_harmless_texts_look_like_attacks(outcomes: dict[str, Outcome]) -> None:
    flagged = {name: outcome.flagged for name, outcome in outcomes.items() if outcome.flagged}
    assert set(flagged) <= set(ALLOWED.flagged)
