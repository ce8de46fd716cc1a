"""A text with more values than an answer has is withheld from there on, however it is cut."""

from __future__ import annotations

import random

import pytest
from bench.output_cuts import CANARY, SYSTEM_PROMPT, planted_text, random_cuts
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle.llm.output import OutputValidator, PromptGuard, scan
from sparkle.llm.output.rule_files import RuleSpec, load_rule_files
from sparkle.llm.output.samples import expand
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.verdict import Action, Mode, Verdict

RULE = "secret.crowded"


def crowded(most: int, policy: OutputPolicy | None = None) -> OutputValidator:
    """A validator that judges no more than ``most`` values and elements of a text."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scan, "MAX_JUDGED", most)
        patch.setattr(scan, "MAX_ELEMENTS", most)
        return OutputValidator(policy or OutputPolicy())


VALIDATORS = {
    "redacted": crowded(7),
    "later": crowded(30),
    "blocked": crowded(7, OutputPolicy(rules={RULE: Mode.BLOCK})),
    "leaks redacted": crowded(12, OutputPolicy(rules={"leak": Mode.REDACT})),
    "rendered": crowded(9, OutputPolicy(render="html")),
}


def streamed(validator: OutputValidator, chunks: list[str], guard: PromptGuard) -> tuple[str, Verdict]:
    stream = validator.open_stream(prompt=guard)
    return "".join([*map(stream.feed, chunks), stream.finish()]), stream.verdict


@pytest.mark.parametrize("name", VALIDATORS)
@given(seed=st.integers(0, 2**48))
@settings(max_examples=120, deadline=None)
def test_a_crowded_stream_emits_what_the_whole_text_emits(name: str, seed: int) -> None:
    rng = random.Random(seed)
    validator = VALIDATORS[name]
    guard = validator.prompt_guard([SYSTEM_PROMPT], CANARY)
    text = "".join(planted_text(rng, parts=20).text for _ in range(3))
    whole = validator.check_text(text, prompt=guard)
    for chunks in (random_cuts(text, rng), list(text)):
        out, verdict = streamed(validator, chunks, guard)
        assert out == whole.text
        assert verdict.action is whole.verdict.action
        crowds = [[f for f in v.findings if f.rule == RULE] for v in (verdict, whole.verdict)]
        assert crowds[0] == crowds[1]


@pytest.mark.parametrize(
    "rule", [r for r in load_rule_files().rules if r.examples and r.mode is Mode.REDACT], ids=lambda r: r.id
)
def test_what_follows_too_many_values_is_withheld(rule: RuleSpec) -> None:
    rng = random.Random(3)
    text = "".join(expand(rng.choice(rule.examples), rng) + "\n\n" for _ in range(60)) + "the end"
    for validator in (VALIDATORS["redacted"], VALIDATORS["later"]):
        result = validator.check_text(text)
        last = result.verdict.findings[-1]
        assert (last.rule, last.end) == (RULE, len(text))
        assert result.text.endswith("[REDACTED:crowded]")


def test_text_in_front_of_the_crowd_leaves_as_ever() -> None:
    text = "mail a.li@corp.cn or b.wu@corp.cn, " * 3 + "c.ma@corp.cn and more words " * 20
    out = crowded(8).check_text(text).text
    assert out.startswith("mail [REDACTED:email] or [REDACTED:email], mail")
    assert out.count("[REDACTED:email]") == 8
    assert out.endswith(" and more words [REDACTED:crowded]")


def test_a_policy_can_end_the_answer_there_or_judge_all() -> None:
    text = "a.li@corp.cn " * 20 + "the end"
    blocked = VALIDATORS["blocked"].check_text(text)
    assert blocked.verdict.action is Action.BLOCK
    assert blocked.text == "[REDACTED:email] " * 7
    for mode in (Mode.OFF, Mode.WATCH):
        result = crowded(7, OutputPolicy(rules={RULE: mode})).check_text(text)
        assert result.text == "[REDACTED:email] " * 20 + "the end"


def test_elements_are_counted_like_values() -> None:
    text = "<b x> " * 30 + "onclick=x"
    assert crowded(10).check_text(text).text == "<b x> " * 10 + "[REDACTED:crowded]"


def test_an_answer_as_long_as_models_write_is_not_crowded() -> None:
    rows = "\n".join(f"| {n} | user{n}@corp.cn | 10.0.{n % 250}.{n % 200} |" for n in range(1500))
    result = OutputValidator(OutputPolicy()).check_text(rows)
    assert RULE not in {f.rule for f in result.verdict.findings}
    assert "@" not in result.text


def test_the_verdict_of_a_stream_grows_with_what_is_withheld() -> None:
    validator = VALIDATORS["redacted"]
    stream = validator.open_stream()
    stream.feed("a.li@corp.cn " * 20)
    early = stream.verdict.findings[-1]
    assert stream.feed("more") == ""
    assert stream.verdict.findings[-1].end == early.end + 4
    assert stream.finish() == ""
    assert not stream.blocked


def test_nothing_leaves_of_a_long_text_behind_what_blocks_it() -> None:
    text = "harmless words " * 3000 + "a.li@corp.cn " + "more words " * 9000
    for mark in ("", "\u200b"):
        result = OutputValidator(OutputPolicy(rules={"pii.email": Mode.BLOCK})).check_text(text + mark)
        assert result.text == "harmless words " * 3000
        assert result.verdict.action is Action.BLOCK
