"""However a body of server-sent events is cut into chunks, the events are the same."""

from __future__ import annotations

import json
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from sparkle.llm.providers.sse import SSEDecoder

payloads = st.one_of(
    st.text(max_size=30).map(
        lambda text: json.dumps({"choices": [{"delta": {"content": text}}]}, ensure_ascii=False)
    ),
    st.text(alphabet="ab :\t", min_size=1, max_size=6).filter(lambda text: text.strip() != ""),
)
ends = st.sampled_from(["\n", "\r\n", "\r"])
noise = st.sampled_from(["", ": ping", ":", "event: message", "id: 1", "retry: 5", "unknown: x"])


@st.composite
def bodies(draw: st.DrawFn) -> tuple[bytes, list[bytes]]:
    """A body, and the payloads in it."""
    end = draw(ends)
    lines: list[str] = []
    expected: list[bytes] = []
    for payload in draw(st.lists(payloads, max_size=8)):
        if (extra := draw(noise)) != "":
            lines.append(extra)
        parts = payload.split("\n")
        lines.extend(f"data: {part}" for part in parts)
        lines.append("")
        expected.append(payload.encode())
    body = "".join(line + end for line in lines)
    if expected and draw(st.booleans()):
        body = body.removesuffix(end)  # the blank line at the end is missing
    return body.encode(), expected


def cut(body: bytes, points: list[int]) -> list[bytes]:
    edges = sorted({0, len(body), *(point % (len(body) + 1) for point in points)})
    return [body[start:stop] for start, stop in pairwise(edges)]


@given(bodies(), st.lists(st.integers(min_value=0, max_value=10_000), max_size=40))
def test_events_do_not_depend_on_how_the_body_is_cut(
    body: tuple[bytes, list[bytes]], points: list[int]
) -> None:
    text, expected = body
    decoder = SSEDecoder()
    seen = [payload for chunk in cut(text, points) for payload in decoder.feed(chunk)]
    assert seen + decoder.close() == expected


@given(st.binary(max_size=200), st.lists(st.integers(min_value=0, max_value=10_000), max_size=40))
def test_any_bytes_decode_the_same_whole_and_cut(body: bytes, points: list[int]) -> None:
    whole, pieces = SSEDecoder(), SSEDecoder()
    expected = whole.feed(body) + whole.close()
    assert [p for chunk in cut(body, points) for p in pieces.feed(chunk)] + pieces.close() == expected
