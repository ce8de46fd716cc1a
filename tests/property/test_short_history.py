"""Packed records say what the record said, and the ring keeps to its bytes."""

from __future__ import annotations

import sys

from hypothesis import given, settings
from hypothesis import strategies as st

from sparkle.tasks.history import History, microseconds, pack, unpack
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.states import FINISHED, TaskMode, TaskState

TEXT = st.text(max_size=200)
MOMENT = st.integers(0, 4_000_000_000_000_000).map(lambda n: n / 1_000_000)


@given(
    id=TEXT.filter(bool),
    name=TEXT,
    user=st.none() | TEXT,
    state=st.sampled_from(sorted(FINISHED)),
    priority=st.integers(0, 9),
    attempts=st.tuples(st.integers(0, 65_535), st.integers(1, 65_535)),
    created=MOMENT,
    started=st.none() | MOMENT.filter(bool),
    finished=MOMENT,
    cancel=st.booleans(),
    error=st.none() | st.tuples(TEXT.filter(bool), st.text(max_size=500)),
    trace=st.none() | TEXT.filter(bool),
)
@settings(max_examples=200, deadline=None)
def test_what_was_packed_is_unpacked(
    id: str,
    name: str,
    user: str | None,
    state: TaskState,
    priority: int,
    attempts: tuple[int, int],
    created: float,
    started: float | None,
    finished: float,
    cancel: bool,
    error: tuple[str, str] | None,
    trace: str | None,
) -> None:
    error_type, message = error or ("", "")
    packed = pack(
        id,
        name,
        user,
        state,
        priority,
        *attempts,
        created,
        created,
        started or 0.0,
        finished,
        cancel,
        error_type,
        message,
        trace,
    )
    assert unpack(packed) == TaskRecord(
        id=id,
        mode=TaskMode.SHORT,
        name=name,
        user_id=user,
        state=state,
        priority=priority,
        error_type=error_type or None,
        error_message=message if error else None,
        attempt=attempts[0],
        max_attempts=attempts[1],
        created_at=microseconds(created),
        due_at=microseconds(created),
        started_at=None if started is None else microseconds(started),
        finished_at=microseconds(finished),
        progress=1.0 if state is TaskState.SUCCEEDED else 0.0,
        cancel_requested=cancel,
        trace=trace,
    )


def entry(name: str) -> bytes:
    return pack(name, name, None, TaskState.SUCCEEDED, 5, 1, 1, 1.0, 1.0, 1.0, 2.0, False, "", "", None)


@given(names=st.lists(st.text("abc", min_size=1, max_size=40), max_size=60), limit=st.integers(0, 2_000))
@settings(max_examples=100, deadline=None)
def test_the_ring_keeps_the_newest_that_fit(names: list[str], limit: int) -> None:
    history = History(limit)
    for name in names:
        history.add(entry(name))
    kept = [record.name for record in history.newest_first()]
    assert kept == names[::-1][: len(kept)]
    assert history.bytes <= limit
    assert len(history) + history.forgotten == len(names)
    assert sum(sys.getsizeof(entry(name)) for name in kept) <= limit
    assert all(history.find(name) is not None for name in kept)
    assert history.find("d") is None


def test_a_name_that_is_no_text_is_kept_as_far_as_it_is_one() -> None:
    assert unpack(entry("a\ud800b")).name == "a?b"
