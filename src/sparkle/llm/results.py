"""What a guarded call returns."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from msgspec import Struct

from sparkle.llm.usage import Usage
from sparkle.llm.verdict import ALLOW, Verdict

if TYPE_CHECKING:
    from sparkle.llm.quota import LimitState


class ChatResult(Struct, frozen=True):
    """A finished chat call."""

    request_id: str
    model: str
    """The model that answered, as the upstream named it."""
    upstream: str
    text: str
    """The first choice's text as the user may see it (redacted where needed)."""
    finish_reason: str | None
    """``stop``, ``length``, ``tool_calls`` or ``content_filter`` (the output guard withheld the rest)."""
    usage: Usage
    cost_nano: int
    """Cost in 10^-9 US dollars."""
    input_verdict: Verdict = ALLOW
    output_verdict: Verdict = ALLOW
    limits: tuple[LimitState, ...] = ()
    """The caller's limits after this call's reservation."""
    body: bytes = field(default=b"", repr=False)
    """The whole OpenAI response as JSON."""
    tool_calls: tuple[dict[str, Any], ...] = field(default=(), repr=False)


@dataclass(frozen=True, slots=True)
class StreamEvent:
    """A piece of a guarded stream."""

    text: str
    """New text of the first choice; may be empty on the last event."""
    done: bool = False
    result: ChatResult | None = None
    """Set on the last event."""
