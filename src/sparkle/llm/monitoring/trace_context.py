"""The W3C ``traceparent`` header (https://www.w3.org/TR/trace-context/, level 1)."""

from __future__ import annotations

import os
import re
from collections.abc import Callable

from msgspec import Struct

_HEADER = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.ASCII | re.DOTALL)
_NO_TRACE = "0" * 32
_NO_SPAN = "0" * 16
_MAX_HEADER = 512

Entropy = Callable[[int], bytes]
"""Returns that many random bytes; ``os.urandom`` outside tests (it stays random over a fork)."""


class TraceContext(Struct, frozen=True):
    """Where a call stands in a distributed trace."""

    trace_id: str
    """32 lower-case hexadecimal digits, not all zero."""
    span_id: str
    """16 lower-case hexadecimal digits, not all zero: the caller's span, which is our parent."""
    flags: str
    """2 hexadecimal digits; the lowest bit says that the caller records."""

    @property
    def header(self) -> str:
        """The ``traceparent`` value, in version 00."""
        return f"00-{self.trace_id}-{self.span_id}-{self.flags}"


def parse_traceparent(header: str | None) -> TraceContext | None:
    """The context of a ``traceparent`` header, or ``None`` where it is missing or invalid (then a trace
    begins).

    Headers of later versions are read as far as version 00 goes, as the recommendation asks; ``ff`` is
    invalid.
    """
    if header is None or len(header) > _MAX_HEADER:
        return None
    matched = _HEADER.fullmatch(header.strip())
    if matched is None:
        return None
    version, trace_id, span_id, flags, rest = matched.groups()
    if version == "ff" or trace_id == _NO_TRACE or span_id == _NO_SPAN or (version == "00" and rest):
        return None
    # Version 00 defines the sampled bit alone; a later version's bits must not be passed on.
    return TraceContext(trace_id, span_id, "01" if int(flags, 16) & 1 else "00")


def new_trace(entropy: Entropy = os.urandom) -> TraceContext:
    """The beginning of a trace. Marked as sampled, as an upstream would assume without a header."""
    digits = entropy(24).hex()
    trace_id, span_id = digits[:32], digits[32:]
    if trace_id == _NO_TRACE or span_id == _NO_SPAN:  # forbidden values; once in 2^64 calls
        trace_id, span_id = trace_id[:-1] + "1", span_id[:-1] + "1"
    return TraceContext(trace_id, span_id, "01")
