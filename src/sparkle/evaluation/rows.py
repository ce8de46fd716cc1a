"""Reading labelled texts: one JSON object a line, and a typed error for every line that is none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from sparkle.errors import DatasetError

MAX_LINE_BYTES = 16 * 1024 * 1024
"""A longer line is refused: no text that a guard judges is that long."""

_ATTACK, _HARMLESS = 1, 0
_HAN_SHARE = 0.15
_LATIN_SHARE = 0.8


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text."""

    text: str = field(repr=False)
    """Not in the repr: it may be somebody's prompt."""
    attack: bool
    source: str
    """Where it comes from, the unit that figures are told by; the file's stem unless the row says so."""
    role: str
    """Whose text it is in a conversation: ``user``, ``tool``, ``retrieved`` ..."""
    file: str
    line: int
    """1-based."""
    fields: dict[str, str] = field(default_factory=dict[str, str], repr=False)
    """Further fields of the row that are strings."""

    @property
    def place(self) -> str:
        """``file:line``, to find the row again."""
        return f"{self.file}:{self.line}"


def read_rows(paths: Iterable[str | Path]) -> list[Row]:
    """All rows of some files, in order.

    Args:
        paths: files of ``{"text": str, "label": 1 (attack) or 0 (harmless), "source": str?, "role": str?}`` a line
            in UTF-8. Blank lines are passed over; other fields are kept where they are strings.

    Raises:
        DatasetError: a line is too long, no JSON object, or lacks a field; the message names file and line, never
            the text.
        OSError: a file cannot be read.
    """
    rows: list[Row] = []
    for path in paths:
        rows.extend(_row(fields, str(path), number, Path(path).stem) for number, fields in read_objects(path))
    if not rows:
        raise DatasetError("there is no row to evaluate; give files with a text and a label a line")
    return rows


def read_objects(path: str | Path) -> Iterator[tuple[int, dict[str, Any]]]:
    """(1-based line, object) of a JSON-lines file; blank lines are left out. Raises as :func:`read_rows`."""
    with Path(path).open("rb") as reader:
        number = 0
        while line := reader.readline(MAX_LINE_BYTES + 1):
            number += 1
            if len(line) > MAX_LINE_BYTES:
                raise DatasetError(f"{path}:{number}: the line is longer than {MAX_LINE_BYTES:,} bytes")
            if line.strip():
                yield number, _object(line, f"{path}:{number}")


def _object(line: bytes, where: str) -> dict[str, Any]:
    try:
        # Not msgspec: escaped lone surrogates are no Unicode, but attackers send them and the guard judges them.
        value: object = json.loads(line.decode("utf-8", "surrogatepass"))
    except (ValueError, RecursionError):
        raise DatasetError(f"{where}: the line is not JSON") from None
    if not isinstance(value, dict):
        raise DatasetError(f"{where}: the line is not a JSON object")
    return cast("dict[str, Any]", value)


def _row(fields: dict[str, Any], file: str, line: int, stem: str) -> Row:
    where = f"{file}:{line}"
    text, label = fields.get("text"), fields.get("label")
    if not isinstance(text, str):
        raise DatasetError(f"{where}: there must be a string named text")
    if label not in (_ATTACK, _HARMLESS):
        raise DatasetError(f"{where}: label must be 1 (attack) or 0 (harmless)")
    strings = {name: value for name, value in fields.items() if isinstance(value, str) and name != "text"}
    for name in ("source", "role"):
        if name in fields and not strings.get(name):
            raise DatasetError(f"{where}: {name} must be a string that is not empty")
    return Row(
        text, label == _ATTACK, strings.get("source", stem), strings.get("role", "user"), file, line, strings
    )


def script_of(text: str) -> str:
    """``han``, ``latin``, ``other`` or ``none``: the writing a text is mostly in, as a stand-in for its language."""
    letters = han = latin = 0
    for char in text[:4_000]:
        if not char.isalpha():
            continue
        letters += 1
        if "\u3400" <= char <= "\u9fff":
            han += 1
        elif char < "\u0250":
            latin += 1
    if not letters:
        return "none"
    if any("\u3040" <= char <= "\u30ff" or "\uac00" <= char <= "\ud7af" for char in text[:4_000]):
        return "other"
    if han >= letters * _HAN_SHARE:
        return "han"
    return "latin" if latin >= letters * _LATIN_SHARE else "other"
