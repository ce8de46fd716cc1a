"""Reading the package's data files."""

from __future__ import annotations

from importlib.resources import files


def read_data(name: str) -> bytes:
    """The bytes of ``sparkle/llm/safety/data/<name>``."""
    return files("sparkle.llm.safety").joinpath("data", name).read_bytes()
