"""The decoder of server-sent events."""

from __future__ import annotations

from collections import deque

import pytest

from sparkle.llm.providers.sse import EventTooLargeError, SSEDecoder


def decode(*chunks: bytes) -> list[bytes]:
    decoder = SSEDecoder()
    return [payload for chunk in chunks for payload in decoder.feed(chunk)] + decoder.close()


def test_an_event_is_handed_on_as_soon_as_it_is_complete() -> None:
    decoder = SSEDecoder()
    assert decoder.feed(b"data: one\n") == []
    assert decoder.feed(b"\n") == [b"one"]
    assert decoder.feed(b"data: two\n\ndata: three\n\n") == [b"two", b"three"]


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r"])
def test_every_line_end_of_the_standard_is_understood(end: bytes) -> None:
    text = end.join([b"data: a", b"data: b", b"", b"data:c", b"", b""])
    assert decode(text) == [b"a\nb", b"c"]
    assert decode(*(bytes([byte]) for byte in text)) == [b"a\nb", b"c"]


def test_an_event_ended_by_cr_does_not_wait_for_a_line_feed() -> None:
    assert SSEDecoder().feed(b"data: now\r\n\r") == [b"now"]


def test_comments_and_other_fields_are_skipped() -> None:
    assert decode(b": ping\n\nevent: message\nid: 7\nretry: 10\ndata: x\n\n:\n\n") == [b"x"]


def test_events_without_data_are_skipped() -> None:
    assert decode(b"data:\n\ndata: \n\ndata\n\ndata: x\n\n") == [b"x"]


def test_a_byte_order_mark_at_the_start_is_skipped_even_when_cut() -> None:
    assert decode(b"\xef\xbb", b"\xbfdata: x\n\n") == [b"x"]


def test_only_one_space_after_the_colon_is_taken_away() -> None:
    assert decode(b"data:  x \n\n") == [b" x "]
    assert decode(b"data:x\n\n") == [b"x"]


def test_the_last_event_needs_no_blank_line() -> None:
    assert decode(b"data: x\n\ndata: last") == [b"x", b"last"]


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_a_line_above_the_bound_is_refused_however_it_is_cut(size: int) -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    text = b"data: " + b"x" * 200
    with pytest.raises(EventTooLargeError):
        deque(map(decoder.feed, (text[start : start + size] for start in range(0, len(text), size))))


def test_an_event_of_many_small_lines_above_the_bound_is_refused() -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    with pytest.raises(EventTooLargeError):
        deque(map(decoder.feed, [b"data: 0123456789\n"] * 100))


def test_many_events_in_one_chunk_may_pass_the_bound_together() -> None:
    decoder = SSEDecoder(max_event_bytes=100)
    assert decoder.feed(b"data: 0123456789\n\n" * 50) == [b"0123456789"] * 50
