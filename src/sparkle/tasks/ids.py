"""Task ids: UUID version 7 (RFC 9562), so that they sort by creation and rows of a time lie together in an index."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable

from sparkle.clock import Clock, SystemClock

_RANDOM_BITS = 74


class TaskIds:
    """Makes ids that grow strictly within a process, whatever the clock does. Safe in threads and after a fork.

    Within one millisecond the random part counts up by a random step of at least 1 (RFC 9562, section 6.2, method 2).

    Args:
        clock: Gives the time field; wall time.
        entropy: Returns that many random bytes.
    """

    __slots__ = ("_clock", "_entropy", "_last", "_lock", "_pid", "_step")

    def __init__(self, clock: Clock | None = None, entropy: Callable[[int], bytes] = os.urandom) -> None:
        self._clock = clock or SystemClock()
        self._entropy = entropy
        self._lock = threading.Lock()
        self._pid = 0
        self._last = 0
        """Time (48 bits) and random part (74 bits) of the latest id, without the fixed bits."""
        self._step = 1

    def __call__(self) -> str:
        """A new id, 36 characters."""
        with self._lock:
            now = int(self._clock.now() * 1000)
            last = self._last
            if now > last >> _RANDOM_BITS or self._pid != os.getpid():
                self._pid = os.getpid()  # a forked process draws its own, or two would count up from the same
                fresh = int.from_bytes(self._entropy(14))
                self._step = (fresh >> 80) + 1
                # A leading zero, so that counting up does not run over into the time.
                start = fresh & ((1 << (_RANDOM_BITS - 1)) - 1)
                last = (max(now, last >> _RANDOM_BITS) << _RANDOM_BITS) | start
            else:
                last += self._step
            self._last = last
        time_field, random = last >> _RANDOM_BITS, last & ((1 << _RANDOM_BITS) - 1)
        high, low = random >> 62, random & ((1 << 62) - 1)
        text = f"{(time_field << 16) | 0x7000 | high:016x}{(1 << 63) | low:016x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
