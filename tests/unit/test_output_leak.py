"""The hidden prompt in an answer: copies of its text, and the canary."""

from __future__ import annotations

import random

import pytest

from sparkle.llm.output import OutputValidator
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.verdict import Action, Mode

PROMPT = (
    "You are Xinghuo, a patient tutor. Rule 1: never reveal the answer key of an exam before the student has tried it. "
    "Rule 2: answer in the student's own language and end with a question."
)
PROMPT_ZH = (
    "你是星火学习伙伴，面向中国大学生。不要直接给出考试答案，先引导学生自己思考，"
    "再逐步讲解解题过程，最后提一个问题。"
)
CANARY = "xh-canary-7d1f09c2ab"
VALIDATOR = OutputValidator(OutputPolicy())
GUARD = VALIDATOR.prompt_guard([PROMPT, PROMPT_ZH], CANARY)


def test_a_long_copy_blocks_and_the_text_before_it_stays() -> None:
    result = VALIDATOR.check_text(f"My instructions say: {PROMPT}", prompt=GUARD)
    assert result.verdict.action is Action.BLOCK
    assert result.text.startswith("My instructions say: You are")
    assert len(result.text) < len("My instructions say: ") + 40
    assert [f.rule for f in result.verdict.findings] == ["leak.system_prompt"]


@pytest.mark.parametrize(
    "copy",
    [
        PROMPT.upper(),
        PROMPT.replace(" ", "\n"),
        " ".join(PROMPT),
        "> " + PROMPT.replace(". ", ".\n> **") + "**",
        PROMPT.replace(" ", "\u200b "),
        "".join(chr(ord(c) + 0xFEE0) if c.isalnum() else c for c in PROMPT),
        PROMPT_ZH,
        PROMPT_ZH.replace("。", "。\n\n"),
    ],
)
def test_layout_does_not_hide_a_copy(copy: str) -> None:
    assert VALIDATOR.check_text(copy, prompt=GUARD).verdict.action is Action.BLOCK


def test_a_short_quotation_is_no_leak() -> None:
    text = "I am a patient tutor, and I answer in the student's own language. 先引导学生自己思考。"
    result = VALIDATOR.check_text(text, prompt=GUARD)
    assert result.text == text
    assert result.verdict.action is Action.ALLOW


def test_chinese_weighs_what_it_says() -> None:
    twenty_two = PROMPT_ZH[:24]
    assert VALIDATOR.check_text(twenty_two, prompt=GUARD).verdict.action is Action.BLOCK
    assert VALIDATOR.check_text(PROMPT_ZH[:15], prompt=GUARD).verdict.action is Action.ALLOW


def test_the_policy_sets_the_length_or_switches_it_off() -> None:
    strict = OutputValidator(OutputPolicy(prompt_overlap_chars=32))
    text = "It begins: You are Xinghuo, a patient tutor. Rule 1: nev"
    assert strict.check_text(text, prompt=strict.prompt_guard([PROMPT])).verdict.action is Action.BLOCK
    assert VALIDATOR.check_text(text, prompt=GUARD).verdict.action is Action.ALLOW
    off = OutputValidator(OutputPolicy(prompt_overlap_chars=0))
    assert off.check_text(PROMPT, prompt=off.prompt_guard([PROMPT])).text == PROMPT
    rule_off = OutputValidator(OutputPolicy(rules={"leak": Mode.OFF}))
    assert (
        rule_off.check_text(PROMPT + CANARY, prompt=rule_off.prompt_guard([PROMPT], CANARY)).text
        == PROMPT + CANARY
    )


def test_watched_leaks_are_counted_and_redacted_ones_are_cut_out() -> None:
    text = f"A {PROMPT} B"
    watch = OutputValidator(OutputPolicy(rules={"leak": Mode.WATCH}))
    result = watch.check_text(text, prompt=watch.prompt_guard([PROMPT]))
    assert result.text == text
    assert [f.mode for f in result.verdict.findings] == [Mode.WATCH]
    redact = OutputValidator(OutputPolicy(rules={"leak": Mode.REDACT}))
    result = redact.check_text(text, prompt=redact.prompt_guard([PROMPT]))
    assert result.text.endswith("[REDACTED:system_prompt]. B")
    assert len(result.text) < 60


def test_a_redacted_leak_too_long_to_hold_is_blocked_however_it_is_cut() -> None:
    rng = random.Random(5)
    prompt = " ".join(f"{rng.choice(('alpha', 'beta', 'gamma'))}{n}" for n in range(3000))
    validator = OutputValidator(OutputPolicy(rules={"leak": Mode.REDACT}))
    guard = validator.prompt_guard([prompt])
    whole = validator.check_text("So: " + prompt, prompt=guard)
    assert whole.verdict.action is Action.BLOCK
    stream = validator.open_stream(prompt=guard)
    text = "So: " + prompt
    out = "".join(stream.feed(text[i : i + 50]) for i in range(0, len(text), 50)) + stream.finish()
    assert out == whole.text
    assert stream.blocked


def test_the_canary_blocks_wherever_it_stands() -> None:
    for text in (f"x {CANARY} y", "XH CANARY 7D1F 09C2 AB", "x" * 100 + " " + " ".join(CANARY)):
        result = VALIDATOR.check_text(text, prompt=GUARD)
        assert result.verdict.action is Action.BLOCK
        assert [f.rule for f in result.verdict.findings] == ["leak.canary"]
    assert VALIDATOR.check_text("xh-canary-7d1f", prompt=GUARD).verdict.action is Action.ALLOW


@pytest.mark.parametrize("size", [1, 3, 10, 64, 1000])
def test_a_streamed_copy_is_cut_where_the_whole_text_is(size: int) -> None:
    text = f"Well. {PROMPT_ZH} 还有 {PROMPT}"
    whole = VALIDATOR.check_text(text, prompt=GUARD).text
    stream = VALIDATOR.open_stream(prompt=GUARD)
    out = "".join(stream.feed(text[i : i + size]) for i in range(0, len(text), size)) + stream.finish()
    assert out == whole
    assert stream.blocked


def test_the_first_words_do_not_wait_for_the_prompt() -> None:
    stream = VALIDATOR.open_stream(prompt=GUARD)
    assert stream.feed("You are") == "You "
    assert stream.feed(" Xinghuo") == "are "


def test_many_spaces_end_a_copy_so_that_little_is_held() -> None:
    spaced = (" " * 70).join(PROMPT.split(" "))
    assert VALIDATOR.check_text(spaced, prompt=GUARD).verdict.action is Action.ALLOW
    stream = VALIDATOR.open_stream(prompt=GUARD)
    out = "".join(map(stream.feed, spaced)) + stream.finish()
    assert out == spaced
    within = (" " * 60).join(PROMPT.split(" "))
    assert VALIDATOR.check_text(within, prompt=GUARD).verdict.action is Action.BLOCK


def test_a_short_prompt_is_nobodys_secret_and_a_middling_one_is_compared_whole() -> None:
    assert not VALIDATOR.prompt_guard(["You are a helpful assistant."]).active
    middling = "Always answer in French, and never mention Paris."
    guard = VALIDATOR.prompt_guard([middling])
    assert VALIDATOR.check_text(f"I was told: {middling}", prompt=guard).verdict.action is Action.BLOCK


def test_guards_are_cached_by_text() -> None:
    assert VALIDATOR.prompt_guard([PROMPT], CANARY) is VALIDATOR.prompt_guard((PROMPT,), CANARY)
    assert VALIDATOR.prompt_guard([PROMPT]) is not VALIDATOR.prompt_guard([PROMPT], CANARY)
    first = VALIDATOR.prompt_guard(["a" * 200_000])
    for n in range(10):
        VALIDATOR.prompt_guard([f"{n}" * 200_000])
    assert VALIDATOR.prompt_guard(["a" * 200_000]) is not first


def test_a_long_harmless_answer_passes_a_long_prompt() -> None:
    rng = random.Random(9)
    words = [f"w{n}" for n in range(2000)]
    prompt = " ".join(rng.choices(words, k=3000))
    answer = " ".join(rng.choices(words, k=30_000))
    guard = VALIDATOR.prompt_guard([prompt])
    assert VALIDATOR.check_text(answer, prompt=guard).text == answer
    copied = answer + " " + prompt[5000:5200]
    assert VALIDATOR.check_text(copied, prompt=guard).verdict.action is Action.BLOCK


def test_a_short_text_that_was_clean_is_judged_anew_beside_a_prompt_it_must_not_give_away() -> None:
    assert VALIDATOR.check_text(CANARY).verdict.action is Action.ALLOW
    assert VALIDATOR.check_text(CANARY).verdict.action is Action.ALLOW
    assert VALIDATOR.check_text(CANARY, prompt=GUARD).verdict.action is Action.BLOCK


def test_what_is_kept_of_clean_short_texts_is_bounded() -> None:
    validator = OutputValidator(OutputPolicy())
    for number in range(2_000):
        assert validator.check_text(f"answer {number}").text == f"answer {number}"
    assert len(validator._known_clean) <= 512  # pyright: ignore[reportPrivateUsage] - there is no other way to see it


def test_a_short_text_that_was_clean_is_judged_anew_where_a_prompt_could_leak_in_it() -> None:
    validator = OutputValidator(OutputPolicy())
    said = "The lighthouse keeper counts to nine before noon."
    for _ in range(2):
        assert validator.check_text(said).verdict.action is Action.ALLOW
    guard = validator.prompt_guard([said], CANARY)
    assert validator.check_text(said, prompt=guard).verdict.action is Action.BLOCK
    assert validator.check_text(CANARY).verdict.action is Action.ALLOW
    assert validator.check_text(CANARY, prompt=guard).verdict.action is Action.BLOCK
    assert guard.shortest == len(CANARY.replace("-", ""))
    assert validator.prompt_guard([said]).shortest > len("chat.completion")
