"""The file that holds a learned model: a checked header and raw sections, read without copying what is large.

Layout: ``SPARKLEMODEL`` + 4 bytes length of the header (little endian) + header (JSON) + sections, each aligned to 64
bytes. A section's type is a letter of :mod:`array` (``b`` int8, ``I`` uint32, ``f`` float32) or ``e`` (float16).
"""

from __future__ import annotations

import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import msgspec
from msgspec import Struct

from sparkle.errors import ConfigurationError

MAGIC = b"SPARKLEMODEL"
FORMAT = 1
_ALIGN = 64
_SIZES = {"b": 1, "B": 1, "e": 2, "I": 4, "f": 4}

SectionType = Literal["b", "B", "e", "I", "f"]


class ModelFileError(ConfigurationError):
    """A model file is damaged or of another format. Reinstall Sparkle, or run ``make train``."""

    code = "model_file_error"


class Section(Struct, frozen=True, forbid_unknown_fields=True):
    """One array in the file."""

    name: str
    type: SectionType
    shape: tuple[int, ...]
    offset: int
    """Bytes after the end of the header's block."""

    @property
    def count(self) -> int:
        """Number of values."""
        total = 1
        for size in self.shape:
            total *= size
        return total

    @property
    def size(self) -> int:
        """Number of bytes."""
        return self.count * _SIZES[self.type]


class _Header(Struct, frozen=True, forbid_unknown_fields=True):
    format: int
    crc32: int
    sections: tuple[Section, ...]
    meta: dict[str, float]


@dataclass(frozen=True, slots=True)
class ModelFile:
    """A model file in memory."""

    meta: Mapping[str, float]
    """Scales and other single numbers."""
    sections: Mapping[str, Section]
    _body: memoryview

    def raw(self, name: str, type_: SectionType, shape: tuple[int | None, ...]) -> memoryview:
        """The bytes of a section, not copied.

        Args:
            name: the section.
            type_: the type it must have.
            shape: the shape it must have; ``None`` fits every size.

        Raises:
            ModelFileError: there is no such section of that type and shape.
        """
        found = self.sections.get(name)
        if found is None or found.type != type_ or len(found.shape) != len(shape):
            raise ModelFileError(f"the model file has no section {name!r} of type {type_!r}")
        if any(want is not None and want != have for want, have in zip(shape, found.shape, strict=True)):
            raise ModelFileError(f"section {name!r} of the model file has the shape {found.shape}")
        return self._body[found.offset : found.offset + found.size]

    def number(self, name: str) -> float:
        """A single number.

        Raises:
            ModelFileError: there is none of this name.
        """
        if name not in self.meta:
            raise ModelFileError(f"the model file has no number {name!r}")
        return self.meta[name]


def parse_model(data: bytes | memoryview, name: str) -> ModelFile:
    """Read a model file's bytes; ``name`` is told in errors.

    Raises:
        ModelFileError: it is no model file of this format, was cut off or changed.
    """
    view = memoryview(data)
    start = len(MAGIC) + 4
    if bytes(view[: len(MAGIC)]) != MAGIC or len(view) < start:
        raise ModelFileError(f"{name} is no model file")
    if sys.byteorder != "little":
        raise ModelFileError(f"{name}: model files are read on little-endian machines only")
    length = int.from_bytes(view[len(MAGIC) : start], "little")
    try:
        header = msgspec.json.decode(view[start : start + length], type=_Header)
    except msgspec.DecodeError as error:
        raise ModelFileError(f"{name}: the header is not readable: {error}") from None
    if header.format != FORMAT:
        raise ModelFileError(f"{name} has format {header.format}, this Sparkle reads {FORMAT}")
    body = view[_aligned(start + length) :]
    if zlib.crc32(body) != header.crc32:
        raise ModelFileError(f"{name} was cut off or changed: its checksum does not fit")
    if any(s.offset < 0 or s.offset + s.size > len(body) for s in header.sections):
        raise ModelFileError(f"{name}: a section lies outside the file")
    return ModelFile(header.meta, {s.name: s for s in header.sections}, body)


def pack_model(
    sections: Mapping[str, tuple[SectionType, tuple[int, ...], bytes]], meta: Mapping[str, float]
) -> bytes:
    """The bytes of a model file: name to (type, shape, little-endian values)."""
    body = bytearray()
    listed: list[Section] = []
    for name, (type_, shape, values) in sections.items():
        body += bytes(_aligned(len(body)) - len(body))
        section = Section(name, type_, shape, len(body))
        if section.size != len(values):
            raise ValueError(f"section {name} holds {len(values)} bytes, its shape says {section.size}")
        listed.append(section)
        body += values
    head: dict[str, Any] = {
        "format": FORMAT,
        "crc32": zlib.crc32(body),
        "sections": listed,
        "meta": dict(meta),
    }
    header = msgspec.json.encode(head)
    start = MAGIC + len(header).to_bytes(4, "little") + header
    return start + bytes(_aligned(len(start)) - len(start)) + bytes(body)


def read_model(path: Path) -> ModelFile:
    """Read a model file.

    Raises:
        ModelFileError: it is missing or damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFileError(f"cannot read the model file {path.name}: {error.strerror}") from None
    return parse_model(data, path.name)


def _aligned(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN
