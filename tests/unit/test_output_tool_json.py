"""Tool-call arguments: judged as they read, still JSON, and otherwise untouched."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle.llm.output import OutputValidator
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.verdict import Action, Mode

VALIDATOR = OutputValidator(OutputPolicy())
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=12,
)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"to": "bob.li@corp.cn"}', '{"to": "[REDACTED:email]"}'),
        ('{"to":"bob.li\\u0040corp.cn"}', '{"to":"[REDACTED:email]"}'),
        ('{"phone": 13812345678, "n": 42}', '{"phone": "[REDACTED:phone]", "n": 42}'),
        ('[1, "call 138\\u00201234 5678" , 2]', '[1, "call [REDACTED:phone]" , 2]'),
        ('{"password": "hunter2!x y"}', '{"password": "[REDACTED:password]"}'),
        (
            '{"api_key": "{k}"}'.replace("{k}", "a8f5f167f44f4964e6c998dee827110c"),
            '{"api_key": "[REDACTED:secret]"}',
        ),
        ('"bob.li@corp.cn"', '"[REDACTED:email]"'),
        ('{"bob.li@corp.cn": 1}', '{"[REDACTED:email]": 1}'),
        (
            '{"q": "{\\"mail\\": \\"bob.li\\\\u0040corp.cn\\"}"}',
            '{"q": "{\\"mail\\": \\"[REDACTED:email]\\"}"}',
        ),
        ('{"html": "<script>x</script>"}', '{"html": "[REDACTED:html]x[REDACTED:html]"}'),
    ],
)
def test_values_are_redacted_as_they_read(arguments: str, expected: str) -> None:
    result = VALIDATOR.check_tool_arguments(arguments, path="tool")
    assert result.text == expected
    assert result.verdict.action is Action.REDACT
    json.loads(result.text)
    for finding in result.verdict.findings:
        json.loads(arguments[finding.start : finding.end])
        assert finding.path == "tool"


@pytest.mark.parametrize(
    "arguments",
    [
        '{"a":  [1,2.50e3,true , null],"b":"\\u4f60\\u597d \\/ x" }',
        "{}",
        "",
        '{"query": "select * from users where id = 12345678"}',
        '{"price": 1234567.89, "big": 12345678901234567890}',
    ],
)
def test_what_is_harmless_keeps_its_bytes(arguments: str) -> None:
    result = VALIDATOR.check_tool_arguments(arguments)
    assert result.text == arguments
    assert result.verdict.action is Action.ALLOW


def test_text_that_is_no_json_is_judged_as_text() -> None:
    result = VALIDATOR.check_tool_arguments('{"to": "bob.li@corp.cn')
    assert result.text == '{"to": "[REDACTED:email]'


def test_deep_nesting_is_judged_as_text() -> None:
    arguments = "[" * 100_000 + '"bob.li@corp.cn"' + "]" * 100_000
    assert "bob.li" not in VALIDATOR.check_tool_arguments(arguments).text


def test_a_block_cuts_before_its_value() -> None:
    validator = OutputValidator(OutputPolicy(rules={"pii.email": Mode.BLOCK}))
    result = validator.check_tool_arguments('{"a": 1, "to": "bob.li@corp.cn", "b": 2}')
    assert result.verdict.action is Action.BLOCK
    assert result.text == '{"a": 1, "to": '


def test_a_half_surrogate_stays_escaped() -> None:
    result = VALIDATOR.check_tool_arguments('{"t": "\\ud83d bob.li@corp.cn"}')
    assert result.text == '{"t": "\\ud83d [REDACTED:email]"}'


@given(value=JSON, ascii_only=st.booleans())
@settings(max_examples=150, deadline=None)
def test_json_stays_json_and_the_same_where_nothing_is_found(value: object, ascii_only: bool) -> None:
    arguments = json.dumps(value, ensure_ascii=ascii_only)
    result = VALIDATOR.check_tool_arguments(arguments)
    if result.verdict.action is Action.ALLOW:
        assert result.text == arguments
    else:
        json.loads(result.text)


@given(value=JSON)
@settings(max_examples=60, deadline=None)
def test_a_planted_value_never_stays_in_the_arguments(value: object) -> None:
    arguments = json.dumps({"x": value, "to": ["write to bob.li@corp.cn, please"]})
    assert "bob.li@corp.cn" not in json.dumps(json.loads(VALIDATOR.check_tool_arguments(arguments).text))
