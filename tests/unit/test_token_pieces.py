"""A long text is counted in pieces, so that other threads get their turn, and still counts the same."""

from __future__ import annotations

import random

import pytest

from sparkle.llm.quota import TokenCounter
from sparkle.llm.quota.tokens import _PIECE, _pieces  # pyright: ignore[reportPrivateUsage]  the seam is what is tested

WORDS = [
    "the",
    "quick",
    "brown",
    "fox,",
    "jumps",
    "over",
    "12",
    "dogs.",
    "\n-",
    "光合作用",
    "的",
    "f(x)=2x",
    "é",
    "",
]


@pytest.fixture(scope="module")
def counter() -> TokenCounter:
    return TokenCounter()


@pytest.mark.parametrize("seed", range(5))
def test_prose_counts_in_pieces_as_in_one(counter: TokenCounter, seed: int) -> None:
    rng = random.Random(seed)
    text = " ".join(rng.choice(WORDS) for _ in range(15_000))
    pieces = list(_pieces(text))
    assert len(pieces) > 3
    tokenizer = counter._tokenizer("o200k_base")  # pyright: ignore[reportPrivateUsage]  counts without pieces
    assert counter.count_text(text, "gpt-test") == tokenizer.count(text)


@pytest.mark.parametrize(
    "text", ["-" * 100_000, "光" * 100_000, "x y " * 30_000, "a" * (2 * _PIECE), "", "\ud800" * 40_000]
)
def test_pieces_are_bounded_and_lose_nothing(counter: TokenCounter, text: str) -> None:
    pieces = list(_pieces(text))
    assert "".join(pieces) == text
    assert all(len(piece) <= 2 * _PIECE for piece in pieces)
    assert (counter.count_text(text, "gpt-test") > 0) == bool(text)


def test_a_cut_inside_a_word_adds_a_token_at_most(counter: TokenCounter) -> None:
    text = "ab" * 50_000
    tokenizer = counter._tokenizer("o200k_base")  # pyright: ignore[reportPrivateUsage]  counts without pieces
    assert 0 <= counter.count_text(text, "gpt-test") - tokenizer.count(text) <= len(list(_pieces(text)))
