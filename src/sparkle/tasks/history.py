"""The latest finished short tasks of a process, packed, in a ring that is bounded in bytes."""

from __future__ import annotations

import struct
from collections import deque
from collections.abc import Iterator

from sparkle.tasks.record import TaskRecord
from sparkle.tasks.states import TaskMode, TaskState

MAX_TEXT = 200
"""Most characters of a name, a user id or an error type."""
_STATES = tuple(TaskState)
_NUMBER = {state: number for number, state in enumerate(_STATES)}
_HEAD = struct.Struct("<BBBBBBBBHHHdddd")
_NEVER = 0.0
_OBJECT_BYTES = 33 + 8 + 7
"""What Python keeps beside a bytes object's content: its header, its slot in the deque, half of the rounding to 16."""


def pack(
    id: str,
    name: str,
    user_id: str | None,
    state: TaskState,
    priority: int,
    attempt: int,
    max_attempts: int,
    created: float,
    due: float,
    started: float,
    finished: float,
    cancel_requested: bool,
    error_type: str,
    error_message: str,
    trace: str | None,
) -> bytes:
    """What a finished short task leaves, in about 100 bytes.

    Args:
        id: At most 255 characters, like all texts but the message (65,535).
        name: The task's name.
        user_id: For whom it ran.
        state: How it ended.
        priority: 0 to 9.
        attempt: Attempts begun.
        max_attempts: Attempts it had.
        created: Seconds since the epoch, like the three after it.
        due: When its latest attempt was due.
        started: When its latest attempt began; 0 for never.
        finished: When it ended.
        cancel_requested: Whether somebody cancelled it.
        error_type: Class of its last failure; empty for none.
        error_message: Its message, masked.
        trace: Its ``traceparent``.
    """
    user, trace = user_id or "", trace or ""
    head = _HEAD.pack(
        _NUMBER[state],
        priority,
        cancel_requested | (user_id is not None) << 1,
        len(id),
        len(name),
        len(user),
        len(error_type),
        len(trace),
        len(error_message),
        min(attempt, 65535),
        min(max_attempts, 65535),
        created,
        due,
        started,
        finished,
    )
    # Lengths are of characters; a lone surrogate, which is no text, becomes one question mark.
    return head + f"{id}{name}{user}{error_type}{error_message}{trace}".encode(errors="replace")


def unpack(packed: bytes) -> TaskRecord:
    """The record that :func:`pack` packed."""
    number: int
    (
        number,
        priority,
        flags,
        id_length,
        name_length,
        user_length,
        type_length,
        trace_length,
        message_length,
        attempt,
        max_attempts,
        created,
        due,
        started,
        finished,
    ) = _HEAD.unpack_from(packed)
    state = _STATES[number]
    text = packed[_HEAD.size :].decode()
    parts: list[str] = []
    at = 0
    for length in (id_length, name_length, user_length, type_length, message_length, trace_length):
        parts.append(text[at : at + length])
        at += length
    id_, name, user, error_type, error_message, trace = parts
    return TaskRecord(
        id=id_,
        mode=TaskMode.SHORT,
        name=name,
        user_id=user if flags & 2 else None,
        state=state,
        priority=priority,
        error_type=error_type or None,
        error_message=error_message if error_type else None,
        attempt=attempt,
        max_attempts=max_attempts,
        created_at=microseconds(created),
        due_at=microseconds(due),
        started_at=microseconds(started) if started != _NEVER else None,
        finished_at=microseconds(finished),
        progress=1.0 if state is TaskState.SUCCEEDED else 0.0,
        cancel_requested=bool(flags & 1),
        trace=trace or None,
    )


def microseconds(seconds: float) -> int:
    """Integer microseconds of a time in seconds."""
    return round(seconds * 1_000_000)


class History:
    """A ring of packed records.

    Args:
        max_bytes: Memory it may take, Python's own bookkeeping included; 0 keeps nothing.
    """

    __slots__ = ("_bytes", "_max_bytes", "_ring", "forgotten")

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._ring: deque[bytes] = deque()
        self._bytes = 0
        self.forgotten = 0
        """Records that had to go for newer ones."""

    def __len__(self) -> int:
        return len(self._ring)

    @property
    def bytes(self) -> int:
        """Memory it takes now."""
        return self._bytes

    def add(self, packed: bytes) -> None:
        """Keep one more; the oldest go where the ring would grow too large."""
        self._ring.append(packed)
        self._bytes += len(packed) + _OBJECT_BYTES
        while self._bytes > self._max_bytes:
            self._bytes -= len(self._ring.popleft()) + _OBJECT_BYTES
            self.forgotten += 1

    def find(self, id: str) -> TaskRecord | None:
        """The record with this id, if it is still kept; looks at the newest first."""
        wanted = id.encode()
        for packed in reversed(self._ring):
            if packed.startswith(wanted, _HEAD.size):
                return unpack(packed)
        return None

    def newest_first(self) -> Iterator[TaskRecord]:
        """All records, unpacked one at a time. Do not add while iterating."""
        return map(unpack, reversed(self._ring))
