"""Identifiers of tasks: UUID version 7 (RFC 9562), which sort by the time they were made."""

from __future__ import annotations

import os
import secrets
import threading
from collections.abc import Callable

from sparkle.clock import Clock, SystemClock

_COUNTER_BITS = 42
"""Counter and random bits below the millisecond: 12 of ``rand_a`` and the upper 30 of ``rand_b``."""
_TAIL_BITS = 32


class TaskIds:
    """Makes ids; each is greater than the one before of the same process, also when the clock steps back.

    Args:
        clock: Gives the milliseconds.
        random_bits: Gives so many random bits; for tests that want to know the ids.
    """

    def __init__(
        self, clock: Clock | None = None, random_bits: Callable[[int], int] = secrets.randbits
    ) -> None:
        self._clock = clock or SystemClock()
        self._random_bits = random_bits
        self._lock = threading.Lock()
        self._millisecond = -1
        self._counter = 0
        # A forked child must not go on where its parent stands.
        self._pid = os.getpid()

    def __call__(self) -> str:
        """The next id, 36 characters."""
        with self._lock:
            now = int(self._clock.now() * 1000)
            if now > self._millisecond or self._pid != os.getpid():
                self._millisecond = max(now, self._millisecond)
                self._pid = os.getpid()
                # The highest bit stays free, so that the counter can grow for a whole millisecond.
                self._counter = self._random_bits(_COUNTER_BITS - 1)
            else:
                self._counter += 1
                if self._counter >> _COUNTER_BITS:
                    self._millisecond += 1
                    self._counter = self._random_bits(_COUNTER_BITS - 1)
            millisecond, counter = self._millisecond, self._counter
        high, low = counter >> 30, counter & 0x3FFF_FFFF
        number = (
            (millisecond << 80)
            | (0x7 << 76)
            | (high << 64)
            | (0b10 << 62)
            | (low << _TAIL_BITS)
            | self._random_bits(_TAIL_BITS)
        )
        text = f"{number:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
