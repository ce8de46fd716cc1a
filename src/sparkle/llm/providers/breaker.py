"""A rest for an upstream that fails: closed, open, half-open with a single probe."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from sparkle.clock import Clock

CircuitState = Literal["closed", "open", "half_open"]


class CircuitBreaker:
    """Counts consecutive failures of one upstream and refuses calls while it rests.

    Every call that may go gets a *permit*; the permit must be given back by exactly one of :meth:`succeed`,
    :meth:`fail` and :meth:`release`. Reports with a permit from before the last change of state are ignored, so that
    a slow call of the past neither closes nor opens the circuit of today. Not for use from several threads.
    """

    __slots__ = (
        "_clock", "_down", "_era", "_failures", "_opened_at", "_reset_seconds", "_state", "_tell", "_threshold",
    )  # fmt: skip

    def __init__(
        self,
        *,
        failures: int,
        reset_seconds: float,
        clock: Clock,
        tell: Callable[[bool], None] | None = None,
    ) -> None:
        """``tell`` learns once when the upstream goes down (``True``) and once when it is back; it must not raise."""
        self._threshold = failures
        self._reset_seconds = reset_seconds
        self._clock = clock
        self._state: CircuitState = "closed"
        self._tell = tell
        self._down = False
        self._failures = 0
        self._opened_at = 0.0
        self._era = 0

    @property
    def state(self) -> CircuitState:
        """``half_open`` only while the probe is under way."""
        return self._state

    def enter(self) -> int | None:
        """A permit, or ``None`` while the upstream rests or another call is the probe."""
        if self._state == "closed":
            return self._era
        if self._state == "open" and self.wait() <= 0:
            self._change("half_open")
            return self._era
        return None

    def wait(self) -> float:
        """Seconds until a call may try; 0 when one may try now, the full rest while a probe is under way."""
        if self._state == "closed":
            return 0.0
        if self._state == "half_open":
            return self._reset_seconds
        return max(0.0, self._opened_at + self._reset_seconds - self._clock.monotonic())

    def answered(self, permit: int) -> int:
        """The upstream began to answer: a half-open circuit closes before the answer is complete.

        Returns:
            The permit to report the end with.
        """
        if permit == self._era and self._state == "half_open":
            self._failures = 0
            self._change("closed")
            return self._era
        return permit

    def succeed(self, permit: int) -> None:
        """The call went well."""
        if permit != self._era:
            return
        self._failures = 0
        if self._state != "closed":
            self._change("closed")

    def fail(self, permit: int) -> None:
        """The upstream failed."""
        if permit != self._era:
            return
        self._failures += 1
        if self._state == "half_open" or self._failures >= self._threshold:
            self._opened_at = self._clock.monotonic()
            self._change("open")

    def release(self, permit: int) -> None:
        """The call said nothing about the upstream's health, e.g. it was cancelled; a probe's place is free again."""
        if permit == self._era and self._state == "half_open":
            self._change("open")  # opened_at is unchanged: the next call may probe at once

    def _change(self, state: CircuitState) -> None:
        self._state = state
        self._era += 1
        down = state != "closed"  # a probe that fails is no news
        if down != self._down:
            self._down = down
            if self._tell is not None:
                self._tell(down)
