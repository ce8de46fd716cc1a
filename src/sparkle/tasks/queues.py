"""The broker's queues: three levels of priority, each for plain and for async tasks."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import product

LEVELS = ("high", "default", "low")
"""From the first served to the last."""


def queue_for(priority: int, *, is_async: bool) -> str:
    """The queue of a task that names none: 7 to 9 is high, 3 to 6 default, 0 to 2 low."""
    level = "high" if priority >= 7 else "default" if priority >= 3 else "low"
    return f"sparkle.{level}.{'async' if is_async else 'sync'}"


QUEUES = tuple(f"sparkle.{level}.{kind}" for level, kind in product(LEVELS, ("sync", "async")))
"""All of Sparkle's own queues. A task may name another; then a worker has to be told to read it."""


def all_queues(further: Iterable[str]) -> tuple[str, ...]:
    """Sparkle's own queues and those that the settings name, the first served first."""
    return tuple(dict.fromkeys((*QUEUES, *further)))
