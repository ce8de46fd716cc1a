"""Prompts are counted as the vendor counts them, offline, and nothing a caller sends can break the count."""

from __future__ import annotations

import base64
import struct
import subprocess
import sys
import zlib
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle.llm.quota import TokenCounter
from sparkle.llm.quota.media import tiles

COUNTER = TokenCounter()


def chat(*contents: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content} for content in contents]


@pytest.mark.parametrize(
    ("model", "encoding"),
    [
        ("gpt-4o", "o200k_base"),
        ("gpt-4o-mini", "o200k_base"),
        ("gpt-4.1", "o200k_base"),
        ("gpt-4", "cl100k_base"),
        ("gpt-4-turbo-2024-04-09", "cl100k_base"),
        ("gpt-3.5-turbo", "cl100k_base"),
        ("openai/gpt-4", "cl100k_base"),
        ("text-embedding-3-small", "cl100k_base"),
        ("deepseek-chat", "o200k_base"),
        ("", "o200k_base"),
    ],
)
def test_a_model_is_counted_with_its_vocabulary(model: str, encoding: str) -> None:
    assert COUNTER.encoding_for(model) == encoding


def test_text_counts_as_in_the_vendors_own_examples() -> None:
    # "tiktoken is great!" is the cookbook's example: 6 tokens in both vocabularies.
    assert COUNTER.count_text("tiktoken is great!", "gpt-4") == 6
    assert COUNTER.count_text("tiktoken is great!", "gpt-4o") == 6
    assert COUNTER.count_text("antidisestablishmentarianism", "gpt-4") == 6
    assert COUNTER.count_text("お誕生日おめでとう", "gpt-4") == 9
    assert COUNTER.count_text("お誕生日おめでとう", "gpt-4o") == 8
    assert COUNTER.count_text("", "gpt-4o") == 0


COOKBOOK: list[dict[str, Any]] = [
    {
        "role": "system",
        "content": "You are a helpful, pattern-following assistant that translates corporate jargon into plain "
        "English.",
    },
    {"role": "system", "name": "example_user", "content": "New synergies will help drive top-line growth."},
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Things working well together will increase revenue.",
    },
    {
        "role": "system",
        "name": "example_user",
        "content": "Let's circle back when we have more bandwidth to touch base on opportunities for increased "
        "leverage.",
    },
    {
        "role": "system",
        "name": "example_assistant",
        "content": "Let's talk later when we're less busy about how to do better.",
    },
    {
        "role": "user",
        "content": "This late pivot means we don't have time to boil the ocean for the client deliverable.",
    },
]


def test_a_chat_counts_as_the_vendor_bills_it() -> None:
    # The cookbook "How to count tokens with tiktoken" prints what the API billed for this chat.
    assert COUNTER.count_messages(COOKBOOK, "gpt-4-0613") == 129
    assert COUNTER.count_messages(COOKBOOK, "gpt-4o") == 124


def test_parts_count_like_their_text() -> None:
    parts = [{"role": "user", "content": [{"type": "text", "text": "Hello there"}, "and more"]}]
    plain = COUNTER.count_text("Hello there", "gpt-4o") + COUNTER.count_text("and more", "gpt-4o")
    assert COUNTER.count_messages(parts, "gpt-4o") == 3 + 1 + plain + 3


def test_tool_calls_tools_and_schemas_are_not_free() -> None:
    bare = COUNTER.count_messages(chat("weather?"), "gpt-4o")
    call = {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {
                "id": "c",
                "type": "function",
                "function": {"name": "weather", "arguments": '{"city": "Beijing"}'},
            }
        ],
    }
    assert COUNTER.count_messages([*chat("weather?"), call], "gpt-4o") > bare + 3 + 6
    tool = {
        "type": "function",
        "function": {
            "name": "weather",
            "description": "Weather of a city",
            "parameters": {"type": "object", "properties": {"city": {"type": "string"}}},
        },
    }
    assert COUNTER.count_messages(chat("weather?"), "gpt-4o", [tool]) > bare + 20
    schema = {"type": "json_schema", "json_schema": {"name": "answer", "schema": {"type": "object"}}}
    assert COUNTER.count_messages(chat("weather?"), "gpt-4o", response_format=schema) > bare + 10
    assert COUNTER.count_messages(chat("weather?"), "gpt-4o", [], response_format={"type": "text"}) == bare


def test_a_lone_surrogate_counts_as_a_replacement() -> None:
    assert COUNTER.count_text("a\ud800b", "gpt-4o") == COUNTER.count_text("a?b", "gpt-4o")
    assert COUNTER.count_messages(chat("\udfff"), "gpt-4o") > 0


def test_special_tokens_in_text_are_only_text() -> None:
    assert COUNTER.count_text("<|endoftext|>", "gpt-4o") > 1


def test_a_long_run_of_one_letter_is_counted() -> None:
    assert COUNTER.count_text("a" * 1_000_000, "gpt-4o") == 125_000


JSONISH = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=12), inner, max_size=4),
    max_leaves=12,
)
MESSAGE = st.dictionaries(
    st.sampled_from(["role", "content", "name", "tool_calls", "refusal", "x"]) | st.text(max_size=5),
    JSONISH
    | st.lists(
        st.fixed_dictionaries(
            {
                "type": st.sampled_from(["text", "image_url", "input_audio", "file"]),
                "text": JSONISH,
                "image_url": JSONISH,
                "file": JSONISH,
                "input_audio": JSONISH,
            }
        ),
        max_size=2,
    ),
    max_size=5,
)


@settings(max_examples=150)
@given(messages=st.lists(MESSAGE, max_size=4), tools=st.none() | st.lists(JSONISH, max_size=3), extra=JSONISH)
def test_whatever_a_caller_sends_is_counted_and_never_for_nothing(
    messages: list[Any], tools: Any, extra: Any
) -> None:
    assert COUNTER.count_messages(messages, "gpt-4o", tools, response_format=extra) >= 3 + 3 * len(messages)


def png(width: int, height: int) -> str:
    chunk = b"IHDR" + struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    raw = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + chunk + struct.pack(">I", zlib.crc32(chunk))
    return "data:image/png;base64," + base64.b64encode(raw).decode()


def jpeg(width: int, height: int) -> str:
    exif = b"\xff\xe1" + struct.pack(">H", 1_000) + b"\x00" * 998
    frame = b"\xff\xc2" + struct.pack(">HBHHB", 17, 8, height, width, 3) + b"\x00" * 9
    return (
        "data:image/jpeg;base64," + base64.b64encode(b"\xff\xd8" + exif + frame + b"\xff\xda" * 200).decode()
    )


def gif(width: int, height: int) -> str:
    return (
        "data:image/gif;base64,"
        + base64.b64encode(b"GIF89a" + struct.pack("<HH", width, height) + b"\x00" * 9).decode()
    )


def webp(width: int, height: int) -> str:
    body = (
        b"VP8X"
        + struct.pack("<I", 10)
        + b"\x00" * 4
        + (width - 1).to_bytes(3, "little")
        + (height - 1).to_bytes(3, "little")
    )
    return (
        "data:image/webp;base64,"
        + base64.b64encode(b"RIFF" + struct.pack("<I", 22) + b"WEBP" + body).decode()
    )


def image(url: Any, model: str = "gpt-4o", **more: str) -> int:
    part = {"type": "image_url", "image_url": {"url": url, **more}}
    return COUNTER.count_messages([{"role": "user", "content": [part]}], model) - COUNTER.count_messages(
        [{"role": "user", "content": []}], model
    )


@pytest.mark.parametrize(
    ("width", "height", "count"),
    [
        (1, 1, 1),
        (512, 512, 1),
        (513, 512, 2),
        (1024, 1024, 4),
        (2048, 4096, 6),
        (4096, 8192, 6),
        (768, 2048, 8),
        (100_000, 1, 4),
        (0, 5, 8),
    ],
)
def test_images_have_the_vendors_number_of_tiles(width: int, height: int, count: int) -> None:
    assert tiles(width, height) == count


@pytest.mark.parametrize("make", [png, jpeg, gif, webp])
def test_an_image_in_the_request_is_counted_by_its_size(make: Any) -> None:
    # The vision guide's examples: 1024 x 1024 is 765 tokens, 2048 x 4096 is 1105.
    assert image(make(1024, 1024)) == 765
    assert image(make(2048, 4096)) == 1_105


def test_a_low_detail_image_costs_the_same_at_any_size() -> None:
    assert image(png(4096, 8192), detail="low") == 85
    assert image("https://example.org/i.png", "gpt-4o-mini", detail="low") == 2_833


@pytest.mark.parametrize(
    "url",
    [
        "https://example.org/i.png",
        "data:image/png;base64,!!!",
        "data:,",
        "data:image/png;base64,iVBORw0KGgo=",
        None,
        7,
    ],
)
def test_an_image_of_unknown_size_is_counted_as_the_largest(url: Any) -> None:
    assert image(url) == 85 + 8 * 170


def test_sound_and_files_are_counted_by_their_length() -> None:
    second = base64.b64encode(b"\x00" * 32_000).decode()
    audio = {"type": "input_audio", "input_audio": {"format": "wav", "data": second}}
    pdf = {"type": "file", "file": {"file_data": "x" * 4_000}}
    empty = COUNTER.count_messages([{"role": "user", "content": []}], "gpt-4o")
    assert COUNTER.count_messages([{"role": "user", "content": [audio]}], "gpt-4o") - empty == 12
    assert COUNTER.count_messages([{"role": "user", "content": [pdf]}], "gpt-4o") - empty == 750


def test_a_models_own_chat_template_is_part_of_the_prompt() -> None:
    assert COUNTER.template_tokens("smollm2-135m-instruct", 1) >= 22 + 1
    assert COUNTER.template_tokens("vendor/SmolLM2-360M", 3) > COUNTER.template_tokens(
        "smollm2-135m-instruct", 1
    )
    assert COUNTER.template_tokens("gpt-4o", 9) == 0


def test_an_inexact_count_is_never_below_the_exact_one_and_loads_nothing() -> None:
    fresh = TokenCounter()
    messages = [{"role": "system", "content": "Sei kurz."}, *chat("什么是光合作用？ \U0001f600")]
    assert fresh.count_messages(messages, "gpt-4o", exact=False) >= COUNTER.count_messages(messages, "gpt-4o")
    assert not fresh._tokenizers  # pyright: ignore[reportPrivateUsage]  # that is the point


def test_only_the_extension_is_loaded_not_the_slow_package_around_it() -> None:
    code = (
        "import sys; from sparkle.llm.quota import TokenCounter; c = TokenCounter(); c.count_text('', 'gpt-4');"
        "assert c.count_text('hello', 'gpt-4o') == 1;"
        "assert 'bpe_openai' not in sys.modules and 'redis' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_another_layout_of_the_wheel_is_found_the_slow_way() -> None:
    code = (
        "import sys; from sparkle.llm.quota import TokenCounter, tokens; tokens.Path.glob = lambda *_: iter(());"
        "assert TokenCounter().count_text('hello', 'gpt-4o') == 1; assert 'bpe_openai' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
