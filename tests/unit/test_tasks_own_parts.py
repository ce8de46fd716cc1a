"""The logic of Sparkle's own tasks: words, terms, vectors, mistakes, mastery, layout."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle.errors import ConfigurationError
from sparkle.tasks.own.embedding import cosine, normalised, pack, unpack, windows
from sparkle.tasks.own.layout import force_layout
from sparkle.tasks.own.mistakes import kind_of, mistakes
from sparkle.tasks.own.ranking import Document, rank
from sparkle.tasks.own.terms import key_terms
from sparkle.tasks.own.tracing import Tracing, shipped_tracing, traced
from sparkle.tasks.own.words import bm25, words

# Words ----------------------------------------------------------------------------------------------------------------


def test_words_of_both_ways_of_writing() -> None:
    assert words("The Chain-Rule, 2x!") == ["the", "chain", "rule", "2x"]
    assert words("链式法") == ["链", "式", "法", "链式", "式法"]
    assert words("ＡＢＣ") == ["abc"]


def test_a_rarer_word_counts_more() -> None:
    scores = bm25("the derivative", ["the the the the", "the derivative", "the cat"])
    assert scores[1] == max(scores)
    assert bm25("anything", []) == []
    assert bm25("", ["a", ""]) == [0.0, 0.0]


@given(st.text(max_size=80), st.lists(st.text(max_size=80), min_size=1, max_size=6))
def test_a_ranking_holds_every_document_once(query: str, texts: list[str]) -> None:
    documents = [Document(str(at), text) for at, text in enumerate(texts)]
    ranked = rank(query, documents, None)
    assert sorted(id for id, _ in ranked) == sorted(document.id for document in documents)
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)


@given(st.text(max_size=2_000), st.integers(1, 10))
def test_terms_are_few_distinct_and_the_same_each_time(text: str, most: int) -> None:
    found = key_terms(text, most)
    assert len(found) <= most
    assert len({term.lower() for term in found}) == len(found)
    assert found == key_terms(text, most)


def test_a_term_is_not_the_title_again() -> None:
    text = "A derivative is a slope. The derivative of a function. Chain rule, chain rule."
    assert all(term.lower() != "derivative" for term in key_terms(text, 5, without="Derivative"))


# Vectors --------------------------------------------------------------------------------------------------------------


@given(st.text(max_size=30_000))
def test_windows_are_short_few_and_never_none(text: str) -> None:
    found = windows(text)
    assert 1 <= len(found) <= 64
    assert all(piece and len(piece) <= 300 for piece in found)


@given(st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=64))
def test_a_vector_is_kept_as_it_is(vector: list[float]) -> None:
    assert unpack(pack(vector)) == vector


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=20).filter(lambda v: sum(x * x for x in v) > 1e-6))
def test_a_normalised_vector_is_like_itself(vector: list[float]) -> None:
    unit = normalised(vector)
    assert math.isclose(cosine(unit, unit), 1.0, rel_tol=1e-9)
    assert normalised([0.0, 0.0]) == [0.0, 0.0]


# Mistakes and mastery -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given_answer", "expected", "kind"),
    [
        ("  ", "1", "blank"),
        ("-2", "2", "sign"),
        ("−2", "x = 2", "sign"),
        ("0.02", "2", "magnitude"),
        ("2,01", "2.0", "rounding"),
        ("2.3", "2", "arithmetic"),
        ("9", "2", "concept"),
        ("0", "2", "arithmetic"),
        ("vector", "matrix", "concept"),
        ("光合", "光合作用", "incomplete"),
    ],
)
def test_a_mistake_is_named(given_answer: str, expected: str, kind: str) -> None:
    assert kind_of(given_answer, expected) == kind


@given(st.text(max_size=60), st.text(max_size=60), st.lists(st.text(max_size=20), max_size=3))
def test_every_mistake_has_a_kind_with_advice(said: str, expected: str, others: list[str]) -> None:
    assert kind_of(said, expected, others) in mistakes()


@given(st.floats(1e-6, 1 - 1e-6), st.lists(st.booleans(), max_size=40))
def test_mastery_stays_a_probability_and_right_answers_speak_for_it(
    known: float, answers: list[bool]
) -> None:
    model = shipped_tracing()
    for correct in answers:
        known = traced(known, correct, model)
        assert 0 < known <= 1
    assert traced(known, True, model) >= traced(known, False, model)


def test_probabilities_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="slip \\+ guess below 1"):
        Tracing(prior=0.2, learn=0.1, slip=0.6, guess=0.5, mastered=0.9)


# Pictures -------------------------------------------------------------------------------------------------------------


@given(st.integers(0, 25), st.data())
def test_a_layout_fills_the_square_and_is_the_same_each_time(count: int, data: st.DataObject) -> None:
    ends = st.integers(0, max(count - 1, 0))
    edges = data.draw(st.lists(st.tuples(ends, ends), max_size=20)) if count else []
    places = force_layout(count, edges)
    assert len(places) == count
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in places)
    assert places == force_layout(count, edges)
