"""A policy says what its file says, and a wrong file says every problem with its line."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle.errors import PolicyError
from sparkle.llm.policy import DEFAULT_ROLES, InputPolicy, Policy, deciding_key, mode_for
from sparkle.llm.policy_source import default_policy_text, load_policy, parse_policy, policy_hash
from sparkle.llm.verdict import Mode


def problems(text: str) -> list[str]:
    with pytest.raises(PolicyError) as caught:
        parse_policy(text, source="p.yaml")
    assert all(problem in caught.value.message for problem in caught.value.details["problems"])
    return caught.value.details["problems"]


def test_the_shipped_policy_says_what_the_code_defaults_to() -> None:
    assert load_policy() == Policy(input=InputPolicy(roles=DEFAULT_ROLES))
    assert load_policy("") == load_policy(None)


def test_the_shipped_policy_spells_out_every_field() -> None:
    written = msgspec.yaml.decode(default_policy_text().encode())
    assert written == msgspec.json.decode(msgspec.json.encode(load_policy()))


def test_the_shipped_policy_explains_itself_in_both_languages() -> None:
    text = default_policy_text()
    assert "禁止" in text
    assert "forbidden" in text
    assert max(map(len, text.splitlines())) <= 120


def test_a_file_changes_only_what_it_names(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_text("name: school\ninput:\n  rules:\n    xss: watch\n")
    policy = load_policy(file)
    assert policy == Policy(name="school", input=InputPolicy(rules={"xss": Mode.WATCH}))


def test_off_without_quotes_is_the_mode_off() -> None:
    policy = parse_policy(
        "input: {rules: {a: off}, roles: {user: off}}\noutput: {rules: {b: off}}", source="p"
    )
    assert policy.input.rules == {"a": Mode.OFF}
    assert policy.input.roles == {"user": "off"}
    assert policy.output.rules == {"b": Mode.OFF}


def test_an_empty_file_is_the_default_policy() -> None:
    assert parse_policy("# nothing\n", source="p") == Policy()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "inputs: {}",
            'p.yaml:1: inputs: unknown name (did you mean "input"?); allowed here: version, name,',
        ),
        ("input:\n  rule: {}", 'p.yaml:2: input.rule: unknown name (did you mean "rules"?)'),
        (
            "input:\n  rules:\n    injection.override: blok",
            'p.yaml:3: input.rules["injection.override"]: must be one of block, redact, watch, off; '
            'is "blok" (did you mean "block"?)',
        ),
        (
            "input:\n  rules: {a: on}",
            "input.rules.a: must be one of block, redact, watch, off; is true or false",
        ),
        ("input:\n  rules: {a.*.b: off}", 'input.rules["a.*.b"]: a * may only stand at the end'),
        ("input:\n  roles: {usr: off}", 'input.roles.usr: unknown role (did you mean "user"?)'),
        ("input:\n  on_error: shut", 'p.yaml:2: input.on_error: must be one of closed, open; is "shut"'),
        ("input:\n  limits:\n    max_messages: 0", "p.yaml:3: input.limits.max_messages: expected int >= 1"),
        ("input:\n  allow:\n    - {rule: x}", "p.yaml:3: input.allow[0]: needs either text or pattern"),
        ("input:\n  allow:\n    - {text: a, pattern: b}", "input.allow[0]: needs either text or pattern"),
        (
            "output:\n  allow:\n    - rule: x\n      pattern: '(?=a)'",
            "p.yaml:4: output.allow[0].pattern: is not a pattern that RE2 accepts: invalid perl operator",
        ),
        (
            "output:\n  placeholder: '{0}'",
            "p.yaml:2: output.placeholder: may hold {kind} and no other braces",
        ),
        ("output:\n  placeholder: '{kind.x}'", "output.placeholder: may hold {kind}"),
        ("output:\n  placeholder: '{'", "output.placeholder: may hold {kind}"),
        ("output: {render: pdf}", 'output.render: must be one of text, html; is "pdf"'),
        ("version: 2", "p.yaml:1: version: must be one of 1"),
        ("name: 2026-01-01", "p.yaml:1: name: expected str, got date"),
        ("5", "p.yaml:1: must be a mapping, is a number"),
        ("input: []", "p.yaml:1: input: must be a mapping, is a list"),
        ("input:", "p.yaml:1: input: must be a mapping, is empty"),
        ("a: [", "p.yaml:1: not valid YAML"),
        ("a: 2026-99-99", "p.yaml: not valid YAML: month must be in 1..12"),
        ("a: &a [*a]", "p.yaml: not valid YAML"),
        ("input: !!python/object:os.system {}", "p.yaml:1: not valid YAML"),
        ("input: {rules: {1: block}}", "input.rules: names must be text"),
        ("\x00", "not valid YAML"),
        ("[" * 5_000, "not valid YAML"),
    ],
)
def test_a_problem_is_told_with_line_field_and_what_is_allowed(text: str, expected: str) -> None:
    assert any(expected in problem for problem in problems(text)), problems(text)


def test_a_rule_given_twice_is_an_error_not_a_silent_choice() -> None:
    said = problems("input:\n  rules:\n    xss: block\n    xss: off\n")
    assert said == ["p.yaml:3: input.rules.xss: is given twice (again in line 4); one of them would be lost"]


def test_every_problem_is_told_at_once() -> None:
    assert len(problems("foo: 1\ninput: {rules: {a: x, b: y}, on_error: 1}\noutput: {canary: 3}")) == 5


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match=r"none\.yaml: No such file"):
        load_policy(tmp_path / "none.yaml")


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "p.yaml"
    file.write_bytes(b"#" * 1_000_001)
    with pytest.raises(PolicyError, match="larger than"):
        load_policy(file)


def test_the_hash_is_of_the_meaning_not_of_the_text() -> None:
    one = parse_policy("input: {rules: {a: block, b: watch}}", source="p")
    two = parse_policy("# a comment\ninput:\n  rules:\n    b: watch\n    a: block\n", source="q")
    other = parse_policy("input: {rules: {a: block, b: off}}", source="p")
    assert policy_hash(one) == policy_hash(two)
    assert policy_hash(one) != policy_hash(other)
    assert len(policy_hash(one)) == 16


RULES = {"a.b.c": Mode.OFF, "a": Mode.WATCH, "a.b.*": Mode.REDACT, "*": Mode.BLOCK}


@pytest.mark.parametrize(
    ("rule", "category", "key"),
    [
        ("a.b.c", "a.b", "a.b.c"),
        ("a.b.d", "a.b", "a.b.*"),
        ("a.x.y", "a.x", "a"),
        ("z.z", "z", "*"),
        ("ab.c", "ab", "*"),
    ],
)
def test_the_longest_name_decides(rule: str, category: str, key: str) -> None:
    assert deciding_key(RULES, rule, category) == key
    assert mode_for(RULES, rule, category, Mode.OFF) is RULES[key]


def test_an_unnamed_rule_keeps_its_own_mode() -> None:
    assert mode_for({"b": Mode.OFF}, "a.b", "a", Mode.REDACT) is Mode.REDACT


@given(st.text(max_size=200))
def test_any_text_gives_a_policy_or_a_policy_error(text: str) -> None:
    try:
        policy = parse_policy(text, source="p")
    except PolicyError as exc:
        assert exc.details["problems"]  # noqa: PT017  either outcome is right, this one with its list
    else:
        assert isinstance(policy, Policy)
