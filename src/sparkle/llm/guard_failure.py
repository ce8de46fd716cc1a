"""A guard that crashes is logged without what it was reading."""

from __future__ import annotations

import logging
import traceback

log = logging.getLogger("sparkle.llm")


def log_guard_failure(layer: str, exc: Exception) -> None:
    """Log where ``layer`` crashed: kind of error and stack, never the message, which may quote the text."""
    stack = "".join(traceback.format_tb(exc.__traceback__))
    log.error("the %s guard failed with %s\n%s", layer, type(exc).__name__, stack)
