"""What a call to an upstream yields: the answer, and the event that metrics are made from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

Outcome = Literal["ok", "timeout", "connect", "rate_limit", "server_error", "rejected", "circuit_open"]
"""How one attempt ended. ``rejected`` covers every other 4xx, refused credentials among them."""


class UpstreamEvent(Struct, frozen=True):
    """One attempt at one upstream, told when the attempt is over (for a stream: when the stream is over).

    An attempt that the caller cancelled before the upstream answered tells nothing.
    """

    upstream: str
    model: str
    """Model name sent upstream. It may come from the caller: bound it before it becomes a metric's label."""
    outcome: Outcome
    seconds: float
    """Duration of the attempt in seconds, without the backoff before it; 0 for ``circuit_open``."""
    attempt: int
    """1 for the first attempt of the call, counted over all upstreams; attempts refused by a circuit count too."""


class ProviderResponse(Struct, frozen=True):
    """A whole answer."""

    status: int
    """HTTP status of the upstream, 200..299."""
    body: bytes
    """JSON text as the upstream sent it, checked to be JSON and no larger than 64 MiB."""
    headers: Mapping[str, str]
    """The upstream's headers that are safe to pass on; names in lower case."""
    upstream: str
    """Name of the upstream that answered."""
    model: str
    """Model name the upstream was asked for (an alias is resolved here)."""
    attempts: int
    """Attempts it took, retries and fallbacks included."""
