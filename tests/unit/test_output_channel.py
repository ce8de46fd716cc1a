"""A stream's behaviour beside its text: what leaves when, memory, ends and blocks."""

from __future__ import annotations

import random

import pytest

from sparkle.llm.output import OutputValidator
from sparkle.llm.output.text import MAX_PIECE
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.verdict import Action, Mode

VALIDATOR = OutputValidator(OutputPolicy())


def outputs(*chunks: str, validator: OutputValidator = VALIDATOR) -> list[str]:
    stream = validator.open_stream()
    return [*(stream.feed(chunk) for chunk in chunks), stream.finish()]


def test_the_first_word_of_an_answer_does_not_wait_for_the_second() -> None:
    assert outputs("The", " gateway", " routes")[:2] == ["The", " "]
    assert outputs("**Sure", "!")[0] == "**Sure"
    assert outputs("Here", "'s")[0] == "Here"


def test_chinese_never_waits() -> None:
    chunks = ["网关", "把每个", "请求，", "交给", "模型。"]
    assert outputs(*chunks) == [*chunks, ""]


def test_a_word_waits_for_its_end_and_no_longer() -> None:
    assert outputs("x gateway", " routes", "\n", "done") == ["x ", "gateway ", "routes\n", "", "done"]


def test_a_number_waits_for_its_next_group() -> None:
    assert outputs("是 12", " 个，", "共 ") == ["是 ", "12 个，", "共 ", ""]


def test_a_long_row_of_numbers_flows() -> None:
    stream = VALIDATOR.open_stream()
    held = 0
    sent = got = 0
    for number in range(3000):
        chunk = f"{number} "
        sent += len(chunk)
        got += len(stream.feed(chunk))
        held = max(held, sent - got)
    assert held < 120


def test_compact_json_flows() -> None:
    stream = VALIDATOR.open_stream()
    sent = got = held = 0
    for number in range(2000):
        chunk = f'{{"id":{number},"v":[1,2,3]}},'
        sent += len(chunk)
        got += len(stream.feed(chunk))
        held = max(held, sent - got)
    assert held < 400
    assert got + len(stream.finish()) == sent


def test_a_value_cut_in_two_leaves_as_one_placeholder() -> None:
    assert "".join(outputs("mail bob.l", "i@cor", "p.cn now")) == "mail [REDACTED:email] now"
    assert "".join(outputs("call 138 12", "34 5", "678")) == "call [REDACTED:phone]"


def test_a_common_first_word_may_stand_before_a_value() -> None:
    text = "Here4u@corp.cn is it"
    assert VALIDATOR.check_text(text).text == "Here[REDACTED:email] is it"
    assert "".join(outputs(*text)) == "Here[REDACTED:email] is it"


@pytest.mark.parametrize("size", [1, 7, 4096, 10**6])
def test_an_endless_word_is_withheld_and_memory_stays_bounded(size: int) -> None:
    rng = random.Random(4)
    text = "data: " + "".join(rng.choices("abcdef0123456789+/", k=40_000)) + " end. bob.li@corp.cn"
    stream = VALIDATOR.open_stream()
    out = ""
    for at in range(0, len(text), size):
        out += stream.feed(text[at : at + size])
        if size < MAX_PIECE:
            assert stream.held < MAX_PIECE + 2 * size + 64
    assert out + stream.finish() == "data: [REDACTED:oversized] end. [REDACTED:email]"
    assert VALIDATOR.check_text(text).text == "data: [REDACTED:oversized] end. [REDACTED:email]"
    assert "secret.oversized" in {f.rule for f in stream.verdict.findings}


def test_an_endless_word_may_be_let_through_by_the_policy() -> None:
    text = "x" * 30_000 + " and on"
    validator = OutputValidator(OutputPolicy(rules={"secret.oversized": Mode.OFF}))
    assert validator.check_text(text).text == text
    assert (
        "".join(outputs(*(text[i : i + 999] for i in range(0, len(text), 999)), validator=validator)) == text
    )


def test_memory_is_bounded_over_a_long_stream() -> None:
    stream = VALIDATOR.open_stream()
    for _ in range(3000):
        stream.feed("A line of words, and then one more; `code` too.\n")
        assert stream.held < 4096


def test_nothing_leaves_after_a_block() -> None:
    validator = OutputValidator(OutputPolicy(rules={"pii.email": Mode.BLOCK}))
    stream = validator.open_stream()
    assert stream.feed("Write to bob.li@corp.cn today") == "Write to "
    assert stream.blocked
    assert stream.verdict.action is Action.BLOCK
    assert stream.feed(" and more") == ""
    assert stream.finish() == ""


def test_a_finished_stream_takes_no_more() -> None:
    stream = VALIDATOR.open_stream()
    assert stream.feed("") == ""
    stream.feed("abc")
    assert stream.finish() == "abc"
    assert stream.finish() == ""
    with pytest.raises(ValueError, match="finished"):
        stream.feed("more")


def test_an_empty_stream_is_an_empty_text() -> None:
    stream = VALIDATOR.open_stream()
    assert stream.finish() == ""
    assert stream.verdict.action is Action.ALLOW
    assert not stream.blocked


def test_offsets_of_a_streams_findings_count_from_its_beginning() -> None:
    stream = VALIDATOR.open_stream(path="choices[0].delta.content")
    text = "第一行\n" * 500 + "联系 bob.li@corp.cn 即可"
    for char in text:
        stream.feed(char)
    stream.finish()
    (finding,) = stream.verdict.findings
    assert text[finding.start : finding.end] == "bob.li@corp.cn"
    assert finding.path == "choices[0].delta.content"


def test_a_private_key_is_swallowed_line_by_line() -> None:
    body = "\n".join("QmFzZTY0" * 8 for _ in range(200))
    text = f"Key:\n-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\nKeep it."
    stream = VALIDATOR.open_stream()
    out = ""
    for at in range(0, len(text), 5):
        out += stream.feed(text[at : at + 5])
        assert stream.held < 200
    out += stream.finish()
    assert out == (
        "Key:\n-----BEGIN PRIVATE KEY-----\n[REDACTED:private_key]-----END PRIVATE KEY-----\nKeep it."
    )
    assert len(stream.verdict.findings) == 1


def test_a_quoted_password_is_redacted_to_its_quote() -> None:
    text = 'password = "tr0ub4dor and three more words", then log in'
    assert VALIDATOR.check_text(text).text == 'password = "[REDACTED:password]", then log in'
    assert "".join(outputs(*text)) == 'password = "[REDACTED:password]", then log in'


def test_findings_written_down_are_bounded_and_all_are_enforced() -> None:
    text = "a1@corp.cn " * 3000
    result = VALIDATOR.check_text(text)
    assert result.text == "[REDACTED:email] " * 3000
    assert len(result.verdict.findings) == 1000


def test_invisible_characters_cannot_fill_memory() -> None:
    stream = VALIDATOR.open_stream()
    out = ""
    for _ in range(500):
        out += stream.feed("\u200b" * 100)
        assert stream.held <= 64
    out += stream.feed(" mail bob.li@corp.cn now") + stream.finish()
    assert out == "\u200b" * 32 + " mail [REDACTED:email] now"
    (finding,) = stream.verdict.findings
    assert (finding.start, finding.end) == (50_006, 50_020)
    family = "👨\u200d👩\u200d👧 🏴\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f"
    assert VALIDATOR.check_text(family + " 1\ufe0f\u20e3").text == family + " 1\ufe0f\u20e3"
