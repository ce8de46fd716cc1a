"""Memory that a worker's parent and its children share: who runs what until when, and when to stop.

The parent holds no connection to the ledger (it forks, and a fork must not copy locks of a database library that
another thread holds). So a child leaves here what its parent must know to kill it in time, and what its successor must
know to report that death.
"""

from __future__ import annotations

import mmap
import struct
from dataclasses import dataclass

_HEADER = struct.Struct("<d")
_SLOT = struct.Struct("<qdq36s120sB")
_SLOT_BYTES = 256
_KILL_AT = struct.Struct("<d")
_KILL_AT_OFFSET = 8
_CULPRIT = struct.Struct("<q36s")
_CULPRIT_OFFSET = 16
_KILLED_OFFSET = _SLOT.size - 1


@dataclass(frozen=True, slots=True)
class SlotState:
    """What one slot says."""

    pid: int
    """Process id of the child; 0: nobody was here."""
    kill_at: float
    """Monotonic time after which the parent kills the child; 0: never."""
    fence: int
    """Fencing token of the task that ``kill_at`` belongs to."""
    task_id: str
    owner: str
    """The child's id in the ledger."""
    killed: bool
    """Whether the parent killed it because of ``kill_at``."""


class Board:
    """One per worker parent, made before it forks.

    Args:
        slots: How many children there may be; each has the slot of its pool index.
    """

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self._memory = mmap.mmap(-1, _SLOT_BYTES * (slots + 1))  # anonymous and shared with forked children

    @property
    def stop_at(self) -> float:
        """Monotonic time at which tasks still running are handed back; 0: no stop was asked for."""
        return _HEADER.unpack_from(self._memory, 0)[0]

    @stop_at.setter
    def stop_at(self, when: float) -> None:
        _HEADER.pack_into(self._memory, 0, when)

    def slot(self, index: int) -> Slot:
        """The slot of the child with this pool index.

        Raises:
            IndexError: There is no such slot.
        """
        if not 0 <= index < self.slots:
            raise IndexError(f"slot {index} of {self.slots}")
        return Slot(self._memory, (index + 1) * _SLOT_BYTES)

    def close(self) -> None:
        """Give the memory back."""
        self._memory.close()


class Slot:
    """One child's place on the board."""

    __slots__ = ("_at", "_memory")

    def __init__(self, memory: mmap.mmap, at: int) -> None:
        self._memory = memory
        self._at = at

    def read(self) -> SlotState:
        """What it says now."""
        pid, kill_at, fence, task_id, owner, killed = _SLOT.unpack_from(self._memory, self._at)
        return SlotState(
            pid, kill_at, fence, task_id.rstrip(b"\0").decode(), owner.rstrip(b"\0").decode(), bool(killed)
        )

    def occupy(self, pid: int, owner: str) -> None:
        """Take the place; what the predecessor left is gone.

        Raises:
            ValueError: ``owner`` is longer than 120 bytes.
        """
        name = owner.encode()
        if len(name) > 120:
            raise ValueError("an owner's id has at most 120 bytes")
        _SLOT.pack_into(self._memory, self._at, pid, 0.0, 0, b"", name, 0)

    def arm(self, kill_at: float, task_id: str, fence: int) -> None:
        """Ask the parent to kill this child at ``kill_at`` because of this task."""
        # The time last: a parent that reads in between finds no time, or the one before.
        _CULPRIT.pack_into(self._memory, self._at + _CULPRIT_OFFSET, fence, task_id.encode())
        _KILL_AT.pack_into(self._memory, self._at + _KILL_AT_OFFSET, kill_at)

    def disarm(self) -> None:
        """Ask for nothing any more."""
        _KILL_AT.pack_into(self._memory, self._at + _KILL_AT_OFFSET, 0.0)

    def mark_killed(self) -> None:
        """Note, for the successor, that the parent killed this child."""
        self._memory[self._at + _KILLED_OFFSET] = 1
