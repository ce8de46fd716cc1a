"""However an upstream cuts its stream, a client of the gateway hears what it would have heard of the whole text.

The engine has this property tested on its own; here it is the gateway's: several choices at once, every text field,
tool calls, a leaked system prompt, over real HTTP.
"""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Coroutine, Generator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import pytest
from bench.output_cuts import SYSTEM_PROMPT, planted_text, random_cuts
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.gateway import Answer, InProcessGateway, gateway
from tests.support.streams import Delta, Heard, body, tool_delta
from tests.support.upstream import ScriptedUpstream

from sparkle.llm.output import OutputValidator
from sparkle.llm.verdict import Action

T = TypeVar("T")
FIELDS = ("content", "reasoning_content", "reasoning", "refusal")

moderate = settings(
    max_examples=150,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
seeds = st.integers(0, 2**32)


@dataclass(slots=True)
class House:
    """A gateway and its upstream on a loop that the examples run on, one after the other."""

    runner: asyncio.Runner
    gw: InProcessGateway
    up: ScriptedUpstream

    @property
    def validator(self) -> OutputValidator:
        return self.gw.app.services.guards().output

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def stream(self, events: list[bytes], **params: Any) -> Answer:
        self.up.clear()
        self.up.stream(events)
        return self.run(self.gw.chat(stream=True, max_tokens=1000, **params))

    def whole(self, message: dict[str, Any], **params: Any) -> Answer:
        self.up.clear()
        self.up.answer(message={"role": "assistant", **message})
        return self.run(self.gw.chat(max_tokens=1000, **params))


async def enter(stack: AsyncExitStack, folder: Path) -> tuple[InProcessGateway, ScriptedUpstream]:
    up = await stack.enter_async_context(ScriptedUpstream())
    gw = await stack.enter_async_context(gateway(folder, upstream=up.url, quota={"tokens_per_day": 0}))
    return gw, up


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Generator[House]:
    with asyncio.Runner() as runner:
        stack = AsyncExitStack()
        gw, up = runner.run(enter(stack, tmp_path_factory.mktemp("cuts")))
        yield House(runner, gw, up)
        runner.run(stack.aclose())


def shuffled(rng: random.Random, channels: list[list[Delta]]) -> list[Delta]:
    """The deltas of several channels, each in its order, mixed as they might arrive."""
    left: list[list[Delta]] = [list(reversed(channel)) for channel in channels if channel]
    mixed: list[Delta] = []
    while left:
        channel = rng.choice(left)
        mixed.append(channel.pop())
        left = [rest for rest in left if rest]
    return mixed


@moderate
@given(seed=seeds)
def test_text_of_every_field_and_choice_leaves_as_it_would_whole(house: House, seed: int) -> None:
    rng = random.Random(seed)
    texts = {
        (index, field): planted_text(rng, parts=5).text
        for index in range(rng.randint(1, 3))
        for field in rng.sample(FIELDS, rng.randint(1, 2))
    }
    channels: list[list[Delta]] = [
        [(index, {field: piece}) for piece in random_cuts(text, rng)]
        for (index, field), text in texts.items()
    ]
    deltas = shuffled(rng, channels)
    answer = house.stream(body(deltas), n=1 + max(index for index, _ in texts))
    heard = Heard(answer.chunks)
    assert answer.events[-1] == b"[DONE]"
    for (index, field), text in texts.items():
        assert heard.text[index, field] == house.validator.check_text(text).text
    assert heard.finish == {index: "stop" for index, _ in deltas} or not deltas


@moderate
@given(seed=seeds)
def test_a_stream_says_what_the_plain_answer_says(house: House, seed: int) -> None:
    rng = random.Random(seed)
    text = planted_text(rng).text or "x"
    whole = house.whole({"content": text})
    streamed = house.stream(body((0, {"content": piece}) for piece in random_cuts(text, rng)))
    assert Heard(streamed.chunks).text[0, "content"] == whole.json["choices"][0]["message"]["content"]
    if not house.validator.check_text(text).verdict.findings:
        assert whole.json["choices"][0]["message"]["content"] == text


@moderate
@given(seed=seeds)
def test_tool_arguments_leave_as_they_would_whole_and_stay_json(house: House, seed: int) -> None:
    rng = random.Random(seed)
    planted = [planted_text(rng, parts=4) for _ in range(rng.randint(1, 3))]
    arguments = [json.dumps({"text": p.text, "n": 1}, ensure_ascii=rng.random() < 0.5) for p in planted]
    channels: list[list[Delta]] = []
    for index, text in enumerate(arguments):
        begin: Delta = (0, tool_delta("", index=index, name=f"tool{index}"))
        channels.append([begin, *((0, tool_delta(piece, index=index)) for piece in random_cuts(text, rng))])
    answer = house.stream(body(shuffled(rng, channels), finish="tool_calls"))
    heard = Heard(answer.chunks)
    for index, text in enumerate(arguments):
        expected = house.validator.check_tool_arguments(text)
        assert heard.arguments[0, index] == expected.text
        assert set(json.loads(heard.arguments[0, index])) == {"text", "n"}
        if not expected.verdict.findings:
            assert heard.arguments[0, index] == text
    assert heard.names == {(0, index): f"tool{index}" for index in range(len(arguments))}


@moderate
@given(seed=seeds)
def test_a_system_prompt_ends_the_stream_where_it_would_end_the_whole_text(house: House, seed: int) -> None:
    rng = random.Random(seed)
    start = rng.randrange(len(SYSTEM_PROMPT))
    quoted = SYSTEM_PROMPT[start : start + rng.choice((20, 60, 100, 200))]
    text = f"{planted_text(rng, parts=3).text} {quoted} {planted_text(rng, parts=2).text}"
    messages = [{"role": "system", "content": SYSTEM_PROMPT}, {"role": "user", "content": "Who are you?"}]
    expected = house.validator.check_text(text, prompt=house.validator.prompt_guard([SYSTEM_PROMPT]))
    events = body((0, {"content": piece}) for piece in random_cuts(text, rng))
    heard = Heard(house.stream(events, messages=messages).chunks)
    assert heard.text[0, "content"] == expected.text
    blocked = expected.verdict.action is Action.BLOCK
    assert heard.finish == {0: "content_filter" if blocked else "stop"}
