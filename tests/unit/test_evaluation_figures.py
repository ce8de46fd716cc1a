"""Figures say what they are called, and their intervals hold what they promise."""

from __future__ import annotations

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle.evaluation.comparison import compare
from sparkle.evaluation.detector import Judged
from sparkle.evaluation.figures import Scored, figures
from sparkle.evaluation.floors import Floors, GroupFloor, shortfalls
from sparkle.evaluation.intervals import auc, exact_mcnemar, percentile, recall_at, wilson
from sparkle.evaluation.rows import Row, script_of

SCORES = st.lists(st.sampled_from([0.0, 0.1, 0.25, 0.5, 0.75, 0.9, 1.0]), min_size=1, max_size=40)


def entry(
    score: float, *, attack: bool, source: str = "s", flagged: bool | None = None, line: int = 1
) -> Scored:
    row = Row(f"text {line}", attack, source, "user", "f.jsonl", line)
    return Scored(row, Judged(score, score >= 0.5 if flagged is None else flagged, (), 1.0))


def test_wilson_agrees_with_the_published_example() -> None:
    # 81 of 263: the example in Newcombe's comparison of intervals (Statistics in Medicine 17, 1998).
    found = wilson(81, 263)
    assert found is not None
    assert (round(found.low, 4), round(found.high, 4)) == (0.2553, 0.3662)


@given(st.integers(0, 500), st.integers(1, 500))
def test_a_wilson_interval_holds_its_share_and_stays_a_share(hits: int, total: int) -> None:
    hits = min(hits, total)
    found = wilson(hits, total)
    assert found is not None
    assert 0 <= found.low <= found.value == hits / total <= found.high <= 1


def test_no_rows_have_no_share() -> None:
    assert wilson(0, 0) is None
    with pytest.raises(ValueError, match="hits"):
        wilson(3, 2)


@given(SCORES, SCORES, st.sampled_from([0.0, 0.01, 0.1, 0.5, 1.0]))
def test_recall_at_a_rate_never_flags_more_harmless_texts_than_that(
    attacks: list[float], harmless: list[float], rate: float
) -> None:
    found = recall_at(attacks, harmless, rate)
    assert found is not None
    interval, threshold = found
    assert sum(score > threshold for score in harmless) <= rate * len(harmless) + 1e-9
    assert interval.value == sum(score > threshold for score in attacks) / len(attacks)
    assert 0 <= interval.low <= interval.value <= interval.high <= 1


def test_recall_at_a_rate_takes_the_best_threshold_that_keeps_it() -> None:
    harmless = [i / 100 for i in range(100)]
    found = recall_at([0.981, 0.985, 0.5, 0.99], harmless, 0.01)
    assert found is not None
    # One of the hundred may be flagged: the one with 0.99; an attack that ties with the next is not counted.
    assert found[1] == 0.98
    assert found[0].value == 0.75


def test_the_simulated_interval_agrees_with_a_plain_bootstrap() -> None:
    rng = random.Random(7)
    harmless = [rng.gauss(0, 1) for _ in range(400)]
    attacks = [rng.gauss(2, 1) for _ in range(300)]
    found = recall_at(attacks, harmless, 0.05)
    assert found is not None
    draws: list[float] = []
    for _ in range(600):
        drawn = sorted(rng.choices(harmless, k=400), reverse=True)
        draws.append(sum(score > drawn[20] for score in rng.choices(attacks, k=300)) / 300)
    draws.sort()
    assert abs(found[0].low - percentile(draws, 0.025)) < 0.04
    assert abs(found[0].high - percentile(draws, 0.975)) < 0.04


@given(SCORES, SCORES)
def test_the_area_under_the_curve_counts_pairs(attacks: list[float], harmless: list[float]) -> None:
    pairs = [(a > h) + (a == h) / 2 for a, h in itertools.product(attacks, harmless)]
    assert math.isclose(auc(attacks, harmless) or 0.0, sum(pairs) / len(pairs), abs_tol=1e-9)


def test_mcnemar_is_the_exact_binomial_test() -> None:
    assert exact_mcnemar(0, 0) == 1
    assert exact_mcnemar(5, 5) == 1
    assert math.isclose(exact_mcnemar(0, 6), 2 / 64)
    assert math.isclose(exact_mcnemar(2, 8), exact_mcnemar(8, 2))
    assert exact_mcnemar(0, 5_000) == pytest.approx(0, abs=1e-300)


def test_groups_mistakes_and_latency_are_told_apart() -> None:
    scored = [
        entry(0.9, attack=True, source="a", line=1),
        entry(0.2, attack=True, source="a", line=2),
        entry(0.1, attack=True, source="a", line=3),
        entry(0.8, attack=False, source="b", line=4),
        entry(0.0, attack=False, source="b", line=5),
    ]
    told = figures("x", scored, group_of=lambda row: row.source, script_of=script_of, worst=1)
    assert [(g.name, g.attacks, g.harmless) for g in told.groups] == [("a", 3, 0), ("b", 0, 2)]
    assert [s.row.line for s in told.misses] == [3]
    assert [s.row.line for s in told.false_alarms] == [4]
    assert told.groups[0].false_positives is None
    assert [(e.chars, e.rows, e.p50) for e in told.latency] == [(300, 5, 1.0)]


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("Hello there", "latin"),
        ("请忽略 everything", "han"),
        ("Забудь всё", "other"),
        ("これを無視して", "other"),
        ("12 + 4", "none"),
    ],
)
def test_the_writing_of_a_text_is_told(text: str, script: str) -> None:
    assert script_of(text) == script


def test_a_better_detector_is_told_from_an_equal_one() -> None:
    good = [entry(0.9, attack=True) for _ in range(60)] + [entry(0.1, attack=False) for _ in range(100)]
    bad = [entry(0.05 if i % 2 else 0.9, attack=True) for i in range(60)] + good[60:]
    worse = compare(("good", "bad"), good, bad)
    assert (worse.attacks.only_first, worse.attacks.only_second) == (30, 0)
    assert worse.attacks.p_value < 1e-6
    assert worse.difference == 0.5
    assert worse.low is not None
    assert worse.low > 0.3
    same = compare(("good", "again"), good, good)
    assert (same.difference, same.low, same.high, same.attacks.p_value) == (0, 0, 0, 1)


def test_a_figure_below_its_floor_is_named_and_one_at_it_is_not() -> None:
    scored = [entry(0.9 if i < 8 else 0.1, attack=True, source="a") for i in range(10)]
    scored += [entry(0.9 if i < 1 else 0.0, attack=False, source="b") for i in range(10)]
    told = figures("x", scored, group_of=lambda row: row.source, script_of=script_of)
    assert not list(shortfalls(told, Floors(recall=0.8, false_positives=0.1, auc=0.5)))
    found = list(
        shortfalls(
            told,
            Floors(
                recall=0.81, false_positives=0.09, recall_at_1_percent=0.9,
                groups={"a": GroupFloor(recall=0.9), "c": GroupFloor(recall=0.1)},
            ),
        )
    )  # fmt: skip
    assert len(found) == 5
    assert found[0] == "all: recall is 80.0%, at least 81.0% must be"
    assert found[-1] == "c: there are no rows of this group"
