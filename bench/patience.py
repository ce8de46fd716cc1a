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
    """A number of seconds that may be waited in all.

    Args:
        seconds: The budget; 0 never waits.
        busy: CPU seconds the machine has spent so far.
        sleep: How to wait.
    """

    def __init__(
        self,
        seconds: float,
        busy: Callable[[], float] = machine.busy_seconds,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._left = seconds
        self._busy = busy
        self._sleep = sleep
        self.waited = 0.0
        """Seconds spent so far."""

    def wait(self) -> None:
        """Return in a quiet moment, or when nothing is left of the budget. Servers of ours that idle do not count."""
        while self._left > 0:
            before = self._busy()
            self._sleep(_LOOK_SECONDS)
            self._left -= _LOOK_SECONDS
            self.waited += _LOOK_SECONDS
            if (self._busy() - before) / _LOOK_SECONDS / (os.cpu_count() or 1) <= QUIET:
                return
