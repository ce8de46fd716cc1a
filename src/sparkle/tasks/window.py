"""How many tasks may lie in the broker at a time."""

from __future__ import annotations

from dataclasses import dataclass, field

_FIRST = 64
_LEAST = 16


@dataclass(slots=True)
class Window:
    """How many tasks of one queue may lie in the broker: as few as keep the workers busy.

    What lies in the broker is served in order of arrival; what still waits in the ledger is handed over by priority. So
    the window grows while workers drain it between two steps, and shrinks while they don't get through it.
    """

    largest: int
    size: int = field(init=False)
    _slow_since: float | None = None

    def __post_init__(self) -> None:
        self.size = min(_FIRST, self.largest)

    def observe(self, outstanding: int, saturated: bool, now: float) -> None:
        """Learn from one step: ``outstanding`` tasks were left of what the last steps handed over."""
        if saturated and outstanding <= self.size // 4:
            self.size = min(self.size * 2, self.largest)
            self._slow_since = None
        elif outstanding > self.size // 2:
            if self._slow_since is None:
                self._slow_since = now
            elif now - self._slow_since >= 1.0:
                self.size = max(self.size * 3 // 4, min(_LEAST, self.largest))
                self._slow_since = now
        else:
            self._slow_since = None
