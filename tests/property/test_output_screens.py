"""A screen matches wherever a rule of its family has something to say: nothing is passed over for speed."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle.llm.output.candidate import Candidate, glued
from sparkle.llm.output.rules import Rule, compile_rules
from sparkle.llm.output.samples import expand
from sparkle.llm.policy import OutputPolicy

GLUE = re.compile(r"[A-Za-z0-9][._\-/]\Z|[A-Za-z0-9]\Z|[0-9]\.\Z")
LABEL = re.compile(
    r"(?i)(?:tel|phone|mobile|cell|fax|card|visa|id|no|nr|number|ssn|whatsapp|wechat|iban|n)[._\-/]?\Z"
)
GLUED_RIGHT = re.compile(r"[A-Za-z0-9]|[._\-][A-Za-z0-9]")
FAMILIES = {f.name: f for f in compile_rules(OutputPolicy()).families if f.screen is not None}
KINDS = {name: f for name, f in FAMILIES.items() if f.finder in ("piece", "number") and not f.led}
TEMPLATES = [
    template
    for family in FAMILIES.values()
    for rule in family.rules
    for template in (*rule.spec.examples, *rule.spec.counterexamples)
]
NEIGHBOURS = [
    "",
    " ",
    "\n",
    "a",
    "N",
    "1",
    ".",
    "-",
    "_",
    "/",
    ":",
    "+",
    "x.",
    "9.",
    "1-",
    "tel",
    "Phone-",
    "No.",
    "。",
    "é",
]


def soup(seed: int, *, rule: Rule | None = None) -> str:
    """A value or near miss with signs changed, between neighbours that matter."""
    rng = random.Random(seed)
    template = rng.choice(TEMPLATES if rule is None else (*rule.spec.examples, *rule.spec.counterexamples))
    signs = list(expand(template, rng))
    for _ in range(rng.choice((0, 0, 1, 2))):
        signs[rng.randrange(len(signs))] = rng.choice("0123456789aAfFxX:-+ .")
    return rng.choice(NEIGHBOURS) + "".join(signs) + rng.choice(NEIGHBOURS)


@pytest.mark.parametrize("name", KINDS)
@given(seed=st.integers(0, 2**48))
@settings(max_examples=100, deadline=None)
def test_a_rule_accepts_nothing_that_its_screen_passes_over(name: str, seed: int) -> None:
    family = KINDS[name]
    text = soup(seed, rule=random.Random(seed).choice(family.rules))
    data = text.encode()
    assert family.screen is not None
    accepted = False
    for rule in family.rules:
        for pattern in rule.bounded:
            for start in range(len(text)):
                match = pattern.match(text, start)
                accepted = accepted or (match is not None and rule.accepts(text, *match.span()) is not None)
        for find, group in rule.finders:
            found = find(data, 0)
            if found is not None:
                start, end = (len(data[:at].decode()) for at in found[group])
                accepted = accepted or rule.accepts(text, start, end) is not None
    assert not accepted or family.screen(data, 0) is not None


@given(seed=st.integers(0, 2**48))
@settings(max_examples=200, deadline=None)
def test_one_look_at_the_neighbours_says_what_both_patterns_say(seed: int) -> None:
    rng = random.Random(seed)
    text = soup(seed)
    start = rng.randrange(len(text))
    end = rng.randrange(start, len(text)) + 1
    before, after = text[max(0, start - 10) : start], text[end : end + 2]
    left = GLUE.search(before) and not LABEL.search(before)
    assert glued(Candidate(text, start, end)) == bool(left or GLUED_RIGHT.match(after))
