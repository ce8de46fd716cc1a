"""A family's trigger occurs wherever one of its rules matches, near the beginning: else a rule would sleep."""

from __future__ import annotations

import random
import re

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sparkle.llm.output.engine import compile_re2
from sparkle.llm.output.rule_files import FamilySpec, load_rule_files
from sparkle.llm.output.samples import expand
from sparkle.llm.output.text import GAP, JOINED
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


HINTED = [pytest.param(f, id=name) for name, f in SOURCE.families.items() if f.first_hint]


@pytest.mark.parametrize("family", HINTED)
@given(data=st.data())
@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_a_trigger_holds_its_familys_hint(family: FamilySpec, data: st.DataObject) -> None:
    text = data.draw(st.from_regex(re.compile(family.whole_trigger.replace("(?i:", "(?:"), re.ASCII)))
    if compile_re2(family.whole_trigger, "test").search(text):
        assert compile_re2(family.first_hint, "test").search(text)


@pytest.mark.parametrize("family", HINTED)
def test_a_family_is_named_exactly_where_its_trigger_occurs(family: FamilySpec) -> None:
    name = next(name for name, f in SOURCE.families.items() if f is family)
    named = Triggers([(f.first_hint, f.whole_trigger) for f in SOURCE.families.values() if f.trigger])
    order = [name for name, f in SOURCE.families.items() if f.trigger]
    for rule in SOURCE.rules:
        for template in (*rule.examples, *rule.counterexamples):
            text = expand(template, random.Random(4))
            found = compile_re2(family.whole_trigger, "test").search(text) is not None
            assert (order.index(name) in (named(text.encode()) or ())) == found
