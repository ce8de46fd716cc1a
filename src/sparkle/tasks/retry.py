"""How long a failed task waits before it is tried again."""

from __future__ import annotations

import random
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """Exponential backoff with full jitter: each wait is uniform between 0 and a ceiling that doubles.

    Full jitter spreads the retries of tasks that failed together over the whole interval, so that a service that
    comes back is not run down by all of them at once.

    Args:
        base_seconds: Ceiling of the first wait.
        max_seconds: Largest ceiling.
        factor: Growth of the ceiling from one retry to the next.
        jitter: Whether to draw at random; ``False`` waits the whole ceiling.
        give_up_on: Names of exception classes (as ``type(exc).__name__`` gives them) that no retry can mend.
    """

    base_seconds: float = 1.0
    max_seconds: float = 300.0
    factor: float = 2.0
    jitter: bool = True
    give_up_on: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if not (self.base_seconds >= 0 and self.max_seconds >= 0 and self.factor >= 1):
            raise ValueError("base_seconds and max_seconds must be >= 0, factor >= 1")

    def ceiling(self, attempt: int) -> float:
        """Longest wait in seconds after attempt number ``attempt`` (the first is 1) failed."""
        # The exponent is bounded because a float power overflows long before a patient task gives up.
        grown = self.base_seconds * self.factor ** min(max(attempt, 1) - 1, 64)
        return min(grown, self.max_seconds)

    def wait_seconds(self, attempt: int, rng: random.Random) -> float:
        """Seconds to wait after attempt number ``attempt`` failed."""
        ceiling = self.ceiling(attempt)
        return rng.uniform(0.0, ceiling) if self.jitter else ceiling

    def gives_up(self, error: BaseException) -> bool:
        """Whether ``error`` is one that trying again cannot mend; base classes count."""
        return any(kind.__name__ in self.give_up_on for kind in type(error).__mro__)


NO_RETRY = RetryPolicy(give_up_on=frozenset({"BaseException"}))
"""Every failure is the last one."""
