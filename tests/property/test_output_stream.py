"""However a text is cut into chunks, what leaves is what leaves of the whole text, and no value leaves in part."""

from __future__ import annotations

import random

import pytest
from bench.output_cuts import CANARY, SYSTEM_PROMPT, planted_text, random_cuts, secret_parts
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle.llm.output import OutputValidator, PromptGuard
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.verdict import Mode

POLICIES = {
    "default": OutputPolicy(prompt_overlap_chars=48),
    "leak redacted": OutputPolicy(rules={"leak": Mode.REDACT}),
    "all blocked": OutputPolicy(rules={"*": Mode.BLOCK}),
    "phones blocked, active watched": OutputPolicy(rules={"pii.phone": Mode.BLOCK, "active": Mode.WATCH}),
    "all watched": OutputPolicy(rules={"*": Mode.WATCH}),
}
VALIDATORS = {name: OutputValidator(policy) for name, policy in POLICIES.items()}
GUARDS = {name: v.prompt_guard([SYSTEM_PROMPT], CANARY) for name, v in VALIDATORS.items()}
RENDERED = OutputValidator(OutputPolicy(render="html"))

# Short pieces that rules, modes and cuts care about, for texts that nobody would think of.
# fmt: off
SHARDS = st.sampled_from(
    [
        *(
            "0",
            "12",
            "138",
            "1234 ",
            "5678",
            "-",
            "+",
            "(",
            ")",
            ".",
            ",",
            ";",
            '"',
            "'",
            " ",
            "  ",
            "\n",
            "\n\n",
            "\t",
        ),
        *(
            "@",
            "a@b",
            ".cn",
            "bob",
            "sk-",
            "ghp_",
            "密码是",
            "密码：",
            "电话",
            "手机 ",
            "password: ",
            "token=",
            "Bearer ",
            "key",
        ),
        *(
            "`",
            "```",
            "```\n",
            "~~~",
            "<",
            ">",
            "<b",
            "<script",
            "<!--",
            " onerror=",
            "javascript:",
            "&#106;",
            "|",
            "\\",
        ),
        *(
            "-----BEGIN RSA PRIVATE KEY-----\n",
            "MIIEowIBAAKCAQEA",
            "-----END RSA PRIVATE KEY-----",
            "Proc-Type: 4\n",
        ),
        *(
            "４１１１",
            "1111 ",
            "4111 1111 1111 1111",
            "110101199003077774",
            "GB82 WEST ",
            "1234 5698 7654 32",
            "\u200b",
        ),
        *(
            "你是星火学习伙伴，面向中国大学生。不要直接",
            "You are Xinghuo, a patient tutor for",
            " university students.",
        ),
        *(
            "xh-can",
            "ary-7d1f",
            "09c2ab",
            "The",
            "Here",
            "是",
            "。",
            "😀",
            "\ud800",
            "é",
            "я",
            "::",
            "2408:",
            "1.2.3.4",
        ),
    ]
)
# fmt: on
SHARDED = st.lists(SHARDS, max_size=40).map("".join)


def streamed(validator: OutputValidator, chunks: list[str], prompt: PromptGuard | None) -> tuple[str, object]:
    stream = validator.open_stream(prompt=prompt)
    out = "".join(stream.feed(chunk) for chunk in chunks) + stream.finish()
    return out, stream.verdict


@pytest.mark.parametrize("name", POLICIES)
@given(seed=st.integers(0, 2**48), data=st.data())
@settings(max_examples=60, deadline=None)
def test_a_stream_emits_what_the_whole_text_emits(name: str, seed: int, data: st.DataObject) -> None:
    rng = random.Random(seed)
    validator, prompt = VALIDATORS[name], GUARDS[name]
    text = planted_text(rng, parts=12).text
    whole = validator.check_text(text, prompt=prompt)
    places = data.draw(st.lists(st.integers(0, max(0, len(text))), max_size=6).map(sorted))
    drawn = [text[a:b] for a, b in zip([0, *places], [*places, len(text)], strict=True)]
    for chunks in (random_cuts(text, rng), list(text), drawn):
        out, verdict = streamed(validator, chunks, prompt)
        assert out == whole.text
        assert getattr(verdict, "action", None) is whole.verdict.action


@pytest.mark.parametrize("name", POLICIES)
@given(text=SHARDED, seed=st.integers(0, 2**32))
@settings(max_examples=120, deadline=None)
def test_a_stream_of_shards_emits_what_the_whole_text_emits(name: str, text: str, seed: int) -> None:
    validator, prompt = VALIDATORS[name], GUARDS[name]
    whole = validator.check_text(text, prompt=prompt).text
    assert streamed(validator, list(text), prompt)[0] == whole
    assert streamed(validator, random_cuts(text, random.Random(seed)), prompt)[0] == whole


BLOCKS = st.sampled_from(
    [
        *(
            "a" * 5000,
            "4" * 4100,
            "b/c" * 2000,
            "x" * 250,
            "\u200b" * 50,
            "\u200b" * 5000,
            " ",
            "\n",
            ",",
            '"',
            "。",
        ),
        *(
            "bob.li@corp.cn",
            "138 1234 ",
            "5678",
            '密码："',
            "-----BEGIN PRIVATE KEY-----\n",
            "<b ",
            "<script",
            ">",
            "`",
        ),
        *(SYSTEM_PROMPT.replace(" ", ""), SYSTEM_PROMPT, " onerror=x", "The"),
    ]
)


@pytest.mark.parametrize("name", ["default", "leak redacted", "all watched"])
@given(blocks=st.lists(BLOCKS, max_size=10), seed=st.integers(0, 2**32))
@settings(max_examples=40, deadline=None)
def test_endless_words_are_the_same_however_they_are_cut(name: str, blocks: list[str], seed: int) -> None:
    text = "".join(blocks)
    validator, prompt = VALIDATORS[name], GUARDS[name]
    whole = validator.check_text(text, prompt=prompt)
    rng = random.Random(seed)
    sizes = rng.choice(((1, 9), (1, 700), (500, 9000)))
    chunks: list[str] = []
    at = 0
    while at < len(text):
        chunks.append(text[at : at + rng.randint(*sizes)])
        at += len(chunks[-1])
    out, verdict = streamed(validator, chunks, prompt)
    assert out == whole.text
    assert getattr(verdict, "action", None) is whole.verdict.action


@given(text=SHARDED, seed=st.integers(0, 2**32))
@settings(max_examples=150, deadline=None)
def test_findings_are_the_same_where_nothing_blocks(text: str, seed: int) -> None:
    validator = VALIDATORS["all watched"]
    whole = validator.check_text(text).verdict
    chunks = random_cuts(text, random.Random(seed))
    assert streamed(validator, chunks, None)[1] == whole


@given(text=SHARDED, seed=st.integers(0, 2**32))
@settings(max_examples=100, deadline=None)
def test_rendered_html_is_the_same_however_it_is_cut(text: str, seed: int) -> None:
    text = text.replace("\ud800", "")
    whole = RENDERED.check_text(text).text
    assert streamed(RENDERED, random_cuts(text, random.Random(seed)), None)[0] == whole


@given(seed=st.integers(0, 2**48))
@settings(max_examples=150, deadline=None)
def test_no_part_of_a_planted_value_ever_leaves(seed: int) -> None:
    rng = random.Random(seed)
    validator = VALIDATORS["default"]
    value = planted_text(rng, parts=2).text
    around = planted_text(rng, parts=4).text
    text = f"{around}\n\n{value}\n\n{around}"
    out, _ = streamed(validator, random_cuts(text, rng), None)
    for part in secret_parts(validator, f"\n\n{value}\n\n"):
        if (
            value.count(part) > 1
        ):  # the same digits once with the words that make them a finding, once without
            continue
        length = max(6, len(part) * 2 // 3)
        for start in range(len(part) - length + 1):
            assert part[start : start + length] not in out.replace(around, "")
