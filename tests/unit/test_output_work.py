"""Twice the text is no more than twice the work, and near misses with a check digit hardly reach a rule."""

from __future__ import annotations

import random
from typing import Any

import pytest

from sparkle.llm.output import OutputValidator
from sparkle.llm.output.rule_files import RuleSpec, load_rule_files
from sparkle.llm.output.rules import Rule
from sparkle.llm.output.samples import expand
from sparkle.llm.output.scan import MAX_JUDGED, Scanner
from sparkle.llm.output.sieve import PATIENCE
from sparkle.llm.policy import OutputPolicy

VALIDATOR = OutputValidator(OutputPolicy())
RULES = load_rule_files().rules
SLICE = 32_768
SIZE = 20_000


def asked(text: str) -> int:
    """How often a rule was asked about a place in a text."""
    count = 0
    accepts = Rule.accepts

    def counted(rule: Rule, text: str, start: int, end: int) -> tuple[int, int] | None:
        nonlocal count
        count += 1
        return accepts(rule, text, start, end)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Rule, "accepts", counted)
        VALIDATOR.check_text(text)
    return count


def repeated(templates: tuple[str, ...], size: int) -> str:
    rng = random.Random(3)
    unit = "".join(expand(template, rng) + " " for _ in range(20) for template in templates)
    return unit * (size // len(unit) + 1)


@pytest.mark.parametrize("rule", [r for r in RULES if r.counterexamples], ids=lambda r: r.id)
def test_twice_the_near_misses_ask_the_rules_twice_as_often(rule: RuleSpec) -> None:
    once = asked(repeated(rule.counterexamples, SIZE))
    assert asked(repeated(rule.counterexamples, 2 * SIZE)) <= 2.2 * once + 8 * PATIENCE


@pytest.mark.parametrize("rule", [r for r in RULES if r.examples], ids=lambda r: r.id)
def test_a_text_full_of_values_is_judged_no_further_than_to_where_it_is_crowded(rule: RuleSpec) -> None:
    text = repeated(rule.examples, 10 * SIZE)
    # Whatever is asked behind the crowd is asked within one slice; a rule looks at a place with a few patterns.
    assert asked(text) <= 8 * (MAX_JUDGED + SLICE // 8)


@pytest.mark.parametrize(
    "text",
    [
        *("A123456780 ", "A123456789 ", "A123456(9) ", "DE89370400440532013001 ", "91110000600037341X "),
        *("4111111111111112 ", "card 1234567890123 ", "110101199003071234 ", "a@example.com ", "y = W@x.transpose() "),
        *("300.1.2.3 ", "a::b ", "00:00:00:00:00:00 ", "AKIAIOSFODNN7EXAMPLE "),
        *("300.1.2.3|", "A123456(9),", "version 1.2.3.4 ", "version 1.2.3.4|", "078-05-1120 ", "(415) 555-0134 "),
        *("+1 202 555 0143 ", "+999 123 456 789 ", "2^34 = 17179869184 ", "1 + 415-222-3333 ", "phone in 2024-03-15 "),
    ],
)  # fmt: skip
def test_numbers_whose_check_digit_is_wrong_hardly_reach_a_rule(text: str) -> None:
    assert asked(text * (SLICE // len(text))) <= 8 * PATIENCE


def test_values_that_hold_one_another_back_are_not_judged_anew_with_every_chunk() -> None:
    text = "4111 1111 1111 1111," * 600  # the end of each value and the beginning of the next are one run
    seen = 0
    scan = Scanner.scan

    def counted(scanner: Scanner, text: str, low: int, high: int, *rest: Any, **more: Any) -> Any:
        nonlocal seen
        seen += high - low
        return scan(scanner, text, low, high, *rest, **more)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Scanner, "scan", counted)
        stream = VALIDATOR.open_stream()
        out = "".join([*(stream.feed(text[at : at + 4]) for at in range(0, len(text), 4)), stream.finish()])
    assert out == VALIDATOR.check_text(text).text
    assert seen <= 30 * len(text)


def test_figures_that_never_repeat_do_not_make_the_triggers_remember_them() -> None:
    family = {name: f for name, f in load_rule_files().families.items() if f.finder == "number"}
    assert all(
        f.first_hint for f in family.values()
    )  # in one automaton they would multiply each other's states


def test_groups_like_those_of_an_iban_of_no_country_are_no_trouble() -> None:
    text = "DE89 3704 0044 0532 0130 01 " * 2 * PATIENCE + "XX31 1111 2222 3333 4444 5555 6666 7777 8888 " * 9
    assert VALIDATOR.check_text(text).text == text


def test_a_value_right_behind_another_is_found_in_a_short_text_as_in_a_crowd() -> None:
    pair, near_miss = "R657085(1)A823456(9) ", "A123456(9) "
    expected = VALIDATOR.check_text(pair).text
    assert expected.count("[") == 2
    assert VALIDATOR.check_text(near_miss * 2 * PATIENCE + pair).text.endswith(expected)
