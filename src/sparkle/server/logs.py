"""What ``sparkle serve`` logs, under Sparkle's own names."""

from __future__ import annotations

import logging
import sys

_OURS = {"uvicorn.error": "sparkle.server", "uvicorn.asgi": "sparkle.server"}


def log_to_stderr(level: str) -> None:
    """Begin to log; ``level`` as in ``logging``, in any case. Records of the HTTP server underneath bear our name."""
    logging.basicConfig(
        level=level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s[%(process)d] %(message)s",
        stream=sys.stderr,
    )
    for theirs in _OURS:
        logger = logging.getLogger(theirs)
        if _rename not in logger.filters:
            logger.addFilter(_rename)


def _rename(record: logging.LogRecord) -> bool:
    record.name = _OURS.get(record.name, record.name)
    return True
