"""Whose trace a task belongs to: a W3C ``traceparent`` that goes with the context."""

from __future__ import annotations

import sys
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar

_traceparent: ContextVar[str | None] = ContextVar("sparkle_traceparent", default=None)


def current_traceparent() -> str | None:
    """The ``traceparent`` of what runs here: one set by :func:`traced`, else of OpenTelemetry's current span."""
    known = _traceparent.get()
    if known is not None or "opentelemetry.trace" not in sys.modules:
        return known  # where nobody has loaded OpenTelemetry there is no span, and nothing to load it for
    from opentelemetry import trace

    span = trace.get_current_span().get_span_context()
    if not span.is_valid:
        return None
    return f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"


@contextmanager
def traced(traceparent: str | None) -> Generator[None]:
    """What is spawned or scheduled inside belongs to this trace."""
    token = _traceparent.set(traceparent)
    try:
        yield
    finally:
        _traceparent.reset(token)
