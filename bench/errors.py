"""What can go wrong while measuring."""

from __future__ import annotations


class BenchError(Exception):
    """A figure could not be measured; the message says why and what to do."""
