"""Waiting until the machine is quiet, for those who have to measure beside others."""

from __future__ import annotations

import os
import time
from collections.abc import Callable

from bench import machine

QUIET = 0.05
"""Share of the machine's CPU that others may take in a quiet moment."""
_LOOK_SECONDS = 0.4


class Patience:
    """Seconds that may be spent on getting one run of the load into a quiet moment.

    Args:
        seconds: For each run; 0 never waits.
        busy: CPU seconds the machine has spent so far.
        clock: Monotonic seconds.
        sleep: How to wait.
    """

    def __init__(
        self,
        seconds: float,
        busy: Callable[[], float] = machine.busy_seconds,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._seconds = seconds
        self._busy = busy
        self._clock = clock
        self._sleep = sleep
        self._until = 0.0

    def begin(self) -> None:
        """A new run: all of the patience is there again."""
        self._until = self._clock() + self._seconds

    def wait(self) -> None:
        """Return in a quiet moment, or when the patience has an end. Servers of ours that idle do not count."""
        while not self.spent():
            before = self._busy()
            self._sleep(_LOOK_SECONDS)
            if (self._busy() - before) / _LOOK_SECONDS / (os.cpu_count() or 1) <= QUIET:
                return

    def spent(self) -> bool:
        """Whether nothing is left for this run."""
        return self._clock() >= self._until
