"""What the composition root may connect to Sparkle's own tasks: this room knows no model by itself."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol


class Complete(Protocol):
    """Asks a model; the guarded one, where the composition root connects it."""

    def __call__(self, user_id: str, instructions: str, text: str) -> str:
        """The model's answer to ``text`` under ``instructions``, charged to ``user_id``. May raise a SparkleError."""
        ...


class Embed(Protocol):
    """Turns texts into vectors."""

    @property
    def model(self) -> str:
        """Its name: vectors of two models are never compared."""
        ...

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector of length 1 for each text."""
        ...


@dataclass(slots=True)
class Hooks:
    """What is connected in this process; ``None``: nothing, the task's own logic answers."""

    complete: Complete | None = None
    embed: Embed | None = None


hooks = Hooks()
"""Of this process. It holds functions, no connection."""


def connect_hooks(*, complete: Complete | None = None, embed: Embed | None = None) -> None:
    """Connect what Sparkle's own tasks may use; ``None`` disconnects.

    Args:
        complete: For ``analyze_error_batch`` and ``expand_knowledge_node``: ``None`` leaves them to their own rules.
        embed: For everything with vectors: ``None`` takes the encoder of the extra ``deep``.
    """
    hooks.complete, hooks.embed = complete, embed
