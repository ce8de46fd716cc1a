"""Telling a picture from a text that says it is one."""

from __future__ import annotations

import base64
import binascii
import re

_HEAD_CHARS = 96
_MAGIC = (
    b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF", b"BM", b"II*\0", b"MM\0*", b"\0\0\1\0", b"ID3", b"OggS", b"fLaC",
    b"\x1aE\xdf\xa3", b"%PDF-", b"PK\x03\x04", b"\x1f\x8b", b"\xd0\xcf\x11\xe0", b"wOFF", b"wOF2",
)  # fmt: skip
_BINARY_TYPE = re.compile(
    r"(?!image/svg)(image|audio|video|font)/|application/(pdf|zip|gzip|octet-stream|msword|vnd\.)"
)
_DENSE = re.compile(r"(?=.*[a-z])(?=.*[A-Z])(?=.*[0-9+/_-])", re.DOTALL)


def is_binary(payload: str) -> bool:
    """Whether a string is base64 of something that is no text, as far as its first bytes tell. Linear, and fast.

    Words that happen to be base64 letters, and base64 of text, are not.
    """
    if len(payload) < 4 or not payload.isascii() or " " in payload:
        return False
    head = payload[:_HEAD_CHARS].replace("\r", "").replace("\n", "").rstrip("=")
    data = _decode(head[: len(head) - (len(head) % 4 == 1)])
    if not data:
        return False
    if data.startswith(_MAGIC) or data[4:8] == b"ftyp":
        return True
    if _utf16(data) is not None:
        return False
    if b"\0" in data:
        return True
    try:
        data[:-3].decode()
    except UnicodeDecodeError:
        return _DENSE.match(head) is not None
    return False


def uri_text(uri: str) -> tuple[str, bool] | None:
    """What a ``data:`` URI says: its text and whether that was decoded; ``None``: it holds something binary."""
    head, comma, payload = uri.partition(",")
    if not comma or not head.lower().rstrip().endswith("base64"):
        return uri, False
    if len(head) < 100 and _BINARY_TYPE.match(head[5:].lower()) and is_binary(payload):
        return None
    data = _decode("".join(payload.split()).rstrip("="))
    if data is None:
        return uri, False
    encoding = _utf16(data) or "utf-8"
    return f"{head[5:]}\n{data.decode(encoding, 'replace')}", True


def _decode(payload: str) -> bytes | None:
    try:
        return base64.b64decode(
            payload.replace("-", "+").replace("_", "/") + "=" * (-len(payload) % 4), validate=True
        )
    except (ValueError, binascii.Error):
        return None


def _utf16(data: bytes) -> str | None:
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        return "utf-16"
    even, odd = data[:64:2], data[1:64:2]
    if len(odd) < 4:
        return None
    # Every second byte of European text in UTF-16 is zero, and no other is.
    if not any(odd) and all(even):
        return "utf-16-le"
    if not any(even) and all(odd):
        return "utf-16-be"
    return None
