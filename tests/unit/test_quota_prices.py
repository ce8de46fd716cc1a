"""Money is exact."""

from __future__ import annotations

from pathlib import Path

import pytest

from sparkle.errors import ConfigurationError
from sparkle.llm.quota import PriceTable

SHIPPED = PriceTable.load()


@pytest.mark.parametrize(
    ("model", "prompt", "answer", "nano"),
    [
        ("gpt-4o", 1_000_000, 1_000_000, 12_500_000_000),
        ("gpt-4o-mini", 1, 0, 150),
        ("gpt-4o-mini-2024-07-18", 0, 1, 600),
        ("GPT-4o", 1, 0, 2_500),
        ("openai/gpt-4o", 1, 0, 2_500),
        ("text-embedding-3-small", 1, 0, 20),
        ("gemini-2.0-flash-lite", 1, 1, 375),
        ("smollm2-135m", 10, 10, 0),
    ],
)
def test_known_models_cost_what_their_vendor_says(model: str, prompt: int, answer: int, nano: int) -> None:
    price = SHIPPED.price(model)
    assert price.known
    assert price.cost(prompt, answer) == nano


def test_an_unknown_model_is_free_and_says_so() -> None:
    price = SHIPPED.price("somebodys-own-model")
    assert not price.known
    assert price.cost(10**6, 10**6) == 0


def test_an_unknown_vendor_of_a_known_model_has_its_price() -> None:
    assert SHIPPED.price("proxy/openai/gpt-4o-mini") == SHIPPED.price("gpt-4o-mini")


def own_table(tmp_path: Path, text: str) -> PriceTable:
    file = tmp_path / "prices.yaml"
    file.write_text(text)
    return PriceTable.load(file)


def test_a_fraction_of_a_nano_dollar_is_rounded_up_once_per_call(tmp_path: Path) -> None:
    table = own_table(tmp_path, "prices: [{models: [cheap], input: 0.0375, output: 0.0001}]")
    price = table.price("cheap")
    assert price.cost(1, 0) == 38
    assert price.cost(1_000, 0) == 37_500
    assert price.cost(0, 1) == 1
    assert price.cost(0, 10_000) == 1_000


def test_the_owners_table_wins_wherever_it_fits_and_the_shipped_one_serves_the_rest(tmp_path: Path) -> None:
    table = own_table(
        tmp_path, 'prices: [{models: ["gpt-4*"], input: 1, output: 1}, {models: [mine], input: 7}]'
    )
    assert table.price("gpt-4o").cost(1, 1) == 2_000
    assert table.price("mine").cost(1, 5) == 7_000
    assert table.price("o1").cost(1, 0) == 15_000


def test_the_most_literal_pattern_wins(tmp_path: Path) -> None:
    table = own_table(
        tmp_path,
        'prices: [{models: ["*"], input: 1}, {models: ["ab*"], input: 2}, {models: ["abc*"], input: 3},'
        " {models: [abcd], input: 4}]",
    )
    assert [table.price(m).cost(1, 0) for m in ("x", "abx", "abcx", "abcd")] == [1_000, 2_000, 3_000, 4_000]


@pytest.mark.parametrize(
    "text",
    [
        "prices: [{models: [m], input: -1}]",
        "prices: [{models: [m], input: NaN}]",
        "prices: [{models: [m], input: much}]",
        "prices: [{models: [], input: 1}]",
        "prices: [{models: [m], input: 1, discount: 5}]",
        "prices: {",
        "",
    ],
)
def test_a_table_that_makes_no_sense_is_refused_by_name(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigurationError, match=r"prices\.yaml"):
        own_table(tmp_path, text)


def test_a_table_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        PriceTable.load(tmp_path / "missing.yaml")


def test_names_from_callers_do_not_fill_the_memory() -> None:
    table = PriceTable.load()
    for number in range(5_000):
        table.price(f"made-up-{number}")
    seen: dict[str, object] = table._seen  # pyright: ignore[reportPrivateUsage, reportAssignmentType]
    assert len(seen) <= 1_024
