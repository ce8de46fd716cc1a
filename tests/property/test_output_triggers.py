"""A family's trigger occurs wherever one of its rules matches, near the beginning: else a rule would sleep."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkle.llm.output.engine import compile_re2
from sparkle.llm.output.rule_files import load_rule_files
from sparkle.llm.output.samples import expand
from sparkle.llm.output.text import GAP, JOINED, fold
from sparkle.llm.output.triggers import Triggers

SOURCE = load_rule_files()
CASES = [
    pytest.param(
        SOURCE.families[rule.family].trigger,
        pattern,
        SOURCE.families[rule.family].finder,
        id=f"{rule.id}-{i}",
    )
    for rule in SOURCE.rules
    for i, pattern in enumerate(rule.patterns)
    if SOURCE.families[rule.family].finder in ("piece", "number") and not SOURCE.families[rule.family].near
]


@pytest.mark.parametrize(("trigger", "pattern", "finder"), CASES)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_match_holds_its_familys_trigger(
    trigger: str, pattern: str, finder: str, data: st.DataObject
) -> None:
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    match = re.search(pattern, text)
    if match is None:  # a look at the neighbours that a match of the whole text does not meet
        return
    begin = match.start(1) if finder == "piece" and match.re.groups else match.start()
    found = compile_re2(trigger, "test").search(text)
    assert found is not None
    if finder == "number":
        assert found.span()[0] - begin <= 8
        # The value may be held back from its first character on, and only gaps part its groups.
        assert re.match(f"[{JOINED}]", text[begin])
        assert re.fullmatch(f"[{JOINED}{GAP}·]*", match.group())


LED = {name: f for name, f in SOURCE.families.items() if f.near}
HINTED = [
    pytest.param(SOURCE.families[rule.family].first_hint, pattern, id=f"{rule.id}-{i}")
    for rule in SOURCE.rules
    for i, pattern in enumerate(rule.patterns)
    if SOURCE.families[rule.family].hint
]


@pytest.mark.parametrize(("hint", "pattern"), HINTED)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_match_holds_its_familys_hint(hint: str, pattern: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(re.compile(pattern, re.ASCII), fullmatch=True))
    assert compile_re2(hint, "test").search(text)


@pytest.mark.parametrize("name", LED)
@given(data=st.data())
@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_words_before_a_value_hold_their_hint(name: str, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(re.compile(LED[name].led, re.ASCII), fullmatch=True))
    assert not compile_re2(f"(?i:{LED[name].led})", "test").search(text) or compile_re2(
        LED[name].first_hint, "test"
    ).search(text)


def test_every_family_is_named_whose_example_is_in_a_text() -> None:
    names = [name for name, family in SOURCE.families.items() if family.trigger]
    triggers = Triggers(
        [(SOURCE.families[name].first_hint, SOURCE.families[name].whole_trigger) for name in names]
    )
    for rule in SOURCE.rules:
        for template in rule.examples:
            assert names.index(rule.family) in (
                triggers(fold(expand(template, random.Random(4)))[0].encode()) or ()
            )
