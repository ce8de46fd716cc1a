"""Tokens of what is not text: images by OpenAI's tile rule, audio and files roughly, on the large side."""

from __future__ import annotations

import base64
import binascii
import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

#: Bytes of an image that are decoded to find its size; JPEG headers with previews can be long.
_HEADER_BYTES = 96 * 1024
_LARGE_SIDE, _SHORT_SIDE, _TILE_SIDE = 2_048, 768, 512
#: The most tiles an image can have after scaling (768 x 2,048): assumed when its size is unknown.
_MOST_TILES = 8
# Audio: OpenAI bills about ten tokens a second. A wave file of 16-bit mono at 16 kHz has 32,000 bytes a
# second; compressed formats at least 4,000.
_AUDIO_TOKENS_PER_SECOND = 10
_WAVE_BYTES_PER_SECOND = 32_000
_PACKED_BYTES_PER_SECOND = 4_000
#: A document's tokens are at most about its bytes over this, text being four bytes a token and binary far
# more.
_FILE_BYTES_PER_TOKEN = 4


@dataclass(frozen=True, slots=True)
class ImageCost:
    """Tokens of an image: ``base`` once (all of a low-detail one), ``tile`` for each 512-pixel square."""

    base: int
    tile: int


def image_tokens(image: Any, cost: ImageCost) -> int:
    """Tokens of an ``image_url`` part. Only data URLs show their size; others are taken as the largest."""
    fields: Mapping[str, Any] = (
        cast("Mapping[str, Any]", image) if isinstance(image, Mapping) else {"url": image}
    )
    if fields.get("detail") == "low":
        return cost.base
    url = fields.get("url")
    size = _size(_head(url)) if isinstance(url, str) and url[:5].lower() == "data:" else None
    return cost.base + cost.tile * (_MOST_TILES if size is None else tiles(*size))


def tiles(width: int, height: int) -> int:
    """512-pixel squares after OpenAI's scaling: into 2,048 x 2,048, then the shorter side down to 768 pixels."""
    if width <= 0 or height <= 0:
        return _MOST_TILES
    scale = min(1.0, _LARGE_SIDE / max(width, height))
    scale *= min(1.0, _SHORT_SIDE / (min(width, height) * scale))
    # A hair below the edge, so that 768.0000001 does not open another tile.
    columns, rows = (max(1, math.ceil(side * scale / _TILE_SIDE - 1e-6)) for side in (width, height))
    return columns * rows


def audio_tokens(audio: Any) -> int:
    """Tokens of an ``input_audio`` part, from its length in bytes."""
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", audio) if isinstance(audio, Mapping) else {}
    rate = _WAVE_BYTES_PER_SECOND if fields.get("format") == "wav" else _PACKED_BYTES_PER_SECOND
    return math.ceil(_decoded_bytes(fields.get("data")) / rate * _AUDIO_TOKENS_PER_SECOND) + 1


def file_tokens(file: Any) -> int:
    """Tokens of a ``file`` part, from its length in bytes; a file named by id counts nothing until it is
    billed.
    """
    fields: Mapping[str, Any] = cast("Mapping[str, Any]", file) if isinstance(file, Mapping) else {}
    return math.ceil(_decoded_bytes(fields.get("file_data")) / _FILE_BYTES_PER_TOKEN)


def _decoded_bytes(data: Any) -> int:
    return len(data) * 3 // 4 if isinstance(data, str) else 0


def _head(url: str) -> bytes:
    meta, _, data = url[: _HEADER_BYTES * 4 // 3 + 128].partition(",")
    if not meta.lower().endswith(";base64"):
        return b""
    data = data[: len(data) // 4 * 4]
    try:
        return base64.b64decode(data, validate=False)
    except (binascii.Error, ValueError):
        return b""


def _size(head: bytes) -> tuple[int, int] | None:
    """Width and height in pixels from a file's first bytes (PNG, GIF, JPEG, WebP)."""
    try:
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            return struct.unpack(">II", head[16:24])
        if head[:6] in (b"GIF87a", b"GIF89a"):
            return struct.unpack("<HH", head[6:10])
        if head.startswith(b"\xff\xd8"):
            return _jpeg_size(head)
        if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
            return _webp_size(head)
    except struct.error:
        return None
    return None


def _jpeg_size(head: bytes) -> tuple[int, int] | None:
    at = 2
    while at + 9 <= len(head):
        marker, length = struct.unpack(">xBH", head[at : at + 4])
        # Start-of-frame segments carry the size; C4, C8 and CC are tables that share their range.
        if 0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC):
            height, width = struct.unpack(">HH", head[at + 5 : at + 9])
            return width, height
        at += 2 + length
    return None


def _webp_size(head: bytes) -> tuple[int, int] | None:
    kind = head[12:16]
    if kind == b"VP8X":
        return int.from_bytes(head[24:27], "little") + 1, int.from_bytes(head[27:30], "little") + 1
    if kind == b"VP8L":
        bits = int.from_bytes(head[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    if kind == b"VP8 ":
        width, height = struct.unpack("<HH", head[26:30])
        return width & 0x3FFF, height & 0x3FFF
    return None
