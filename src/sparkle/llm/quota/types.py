"""What the quota layer hands out: a reservation, its settlement, the state of a limit."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from sparkle.llm.quota.ops import CALLS, MONEY, RATE, TOKENS, Hold
from sparkle.llm.usage import Principal, Usage

LimitKind = Literal["usd_per_month", "usd_per_day", "tokens_per_day", "requests_per_minute", "concurrency"]
Scope = Literal["user", "key", "team", "total"]
Unit = Literal["nano_usd", "tokens", "requests", "calls"]

MEASURE_OF: dict[LimitKind, int] = {
    "usd_per_month": MONEY,
    "usd_per_day": MONEY,
    "tokens_per_day": TOKENS,
    "requests_per_minute": RATE,
    "concurrency": CALLS,
}
UNIT_OF: dict[LimitKind, Unit] = {
    "usd_per_month": "nano_usd",
    "usd_per_day": "nano_usd",
    "tokens_per_day": "tokens",
    "requests_per_minute": "requests",
    "concurrency": "calls",
}


class LimitState(Struct, frozen=True):
    """One limit as the store saw it at one moment."""

    kind: LimitKind
    """Name of the setting, e.g. ``tokens_per_day``; decides the unit of the four amounts below."""
    scope: Scope
    limit: int
    """Tokens, nano-US-dollars, requests or calls: see :attr:`unit`."""
    used: int
    """Really spent in this window (requests: made in the last 60 s; concurrency: always 0)."""
    reserved: int
    """Held by calls that are still running."""
    remaining: int
    """``limit - used - reserved``, never below 0."""
    reset_at: float
    """Unix seconds at which ``used`` is back at 0; for concurrency the moment of the look."""

    @property
    def unit(self) -> Unit:
        """What the amounts count."""
        return UNIT_OF[self.kind]


class Reservation(Struct, frozen=True):
    """What one call may use at most; held until it is settled, released, or its process dies."""

    id: str
    principal: Principal
    model: str
    prompt_tokens: int
    max_output_tokens: int
    """Largest answer, in tokens *per choice*: the cap to put upstream."""
    choices: int
    tokens: int
    """All that is held: prompt plus the largest answer times choices."""
    cost_nano: int
    """What that costs at most, in nano-US-dollars; 0 when the model has no price."""
    created_at: float
    """Unix seconds, in the store's time."""
    limits: tuple[LimitState, ...]
    """Every applicable limit right after reserving (for ``x-ratelimit-*``)."""
    holds: tuple[Hold, ...]
    """What the store holds for it; opaque to callers."""


class Settlement(Struct, frozen=True):
    """What became of a reservation."""

    reservation_id: str
    usage: Usage
    """What was recorded; a negative or absurd report is clamped to what the store can hold."""
    cost_nano: int
    """What it cost, in nano-US-dollars."""
    returned_tokens: int
    """Reserved minus used; negative when the upstream reported more than was reserved."""
    recorded: bool
    """False when this reservation had been settled or released before: nothing was changed."""

    @property
    def exceeded(self) -> bool:
        """True when more was used than reserved; it is recorded as it is, and the next call is refused."""
        return self.returned_tokens < 0
