"""A task that only a newer worker knows."""

from __future__ import annotations

from tests.chaos.workload import SOON, step

from sparkle.tasks.registry import long_task


@long_task("chaos.step_new", retry=SOON)
def step_new(folder: str, seconds: float) -> None:
    """Like ``chaos.step``."""
    step.function(folder, seconds)
