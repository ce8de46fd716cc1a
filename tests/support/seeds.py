"""A line of the training texts, as every file under ``training/seeds`` holds it."""

from __future__ import annotations

from msgspec import Struct


class Line(Struct, frozen=True, forbid_unknown_fields=True):
    """One line of a seed file."""

    text: str
    label: int
    lang: str
    family: str
    style: str
    source: str
