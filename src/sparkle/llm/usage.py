"""Who calls, and what a call used."""

from __future__ import annotations

from msgspec import Struct


class Principal(Struct, frozen=True):
    """Whom a call is charged to."""

    user: str
    """User id; ``anonymous`` where nobody was named."""
    team: str | None = None
    key_id: str | None = None
    """Public id of the API key (never the key)."""
    models: tuple[str, ...] = ()
    """Models the key may use (glob patterns); empty: all."""


class Usage(Struct, frozen=True):
    """Tokens of one call."""

    prompt_tokens: int
    completion_tokens: int
    estimated: bool = False
    """True when Sparkle counted (interrupted stream, upstream without usage), False when the upstream reported."""

    @property
    def total_tokens(self) -> int:
        """Prompt and answer together."""
        return self.prompt_tokens + self.completion_tokens
