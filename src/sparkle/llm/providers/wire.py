"""Which headers cross the wire, and what is masked in an upstream's words. The lists are data (``data/wire.yaml``)."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

import msgspec

MASK = "[key]"
_LONGEST_MESSAGE = 500
_LONGEST_HEADER = 4096
# Bytes that would end a header early, or that no header may carry.
_BAD_IN_HEADER = re.compile(r"[^\t\x20-\x7e]")


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    request_headers: tuple[str, ...]
    response_headers: tuple[str, ...]
    mask: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class WireRules:
    """The lists of ``data/wire.yaml``, ready for use."""

    request_headers: frozenset[str]
    response_headers: Mapping[bytes, str]
    """Lower-case name as bytes to the same name as text."""
    patterns: tuple[re.Pattern[str], ...]

    def forwarded(self, headers: Mapping[str, str]) -> bytes:
        """The caller's headers that may go upstream, as lines of a request head.

        Everything not on the list is dropped, and so is a value that could smuggle in a second header.
        """
        lines = ""
        for name, value in headers.items():
            key = name.lower()
            if (
                key in self.request_headers
                and len(value) <= _LONGEST_HEADER
                and not _BAD_IN_HEADER.search(value)
            ):
                lines += f"{key}: {value}\r\n"
        return lines.encode("ascii")

    def kept(self, headers: Iterable[tuple[bytes, bytes]]) -> dict[str, str]:
        """The upstream's headers that may be passed on."""
        names = self.response_headers
        kept: dict[str, str] = {}
        for raw, value in headers:
            name = names.get(raw.lower())
            if name is not None:
                kept[name] = value.decode("latin-1")
        return kept

    def masked(self, text: str, *keys: str) -> str:
        """``text`` on one line, without anything that looks like a key, at most 500 characters long."""
        for key in keys:
            if key:
                text = text.replace(key, MASK)
        # Masked before it is cut: a cut could leave half a key that no pattern knows.
        text = " ".join(text[: 8 * _LONGEST_MESSAGE].split())
        for pattern in self.patterns:
            text = pattern.sub(MASK, text)
        return text if len(text) <= _LONGEST_MESSAGE else text[: _LONGEST_MESSAGE - 1] + "…"


@cache
def wire_rules() -> WireRules:
    """Read the shipped lists; done once per process."""
    raw = files("sparkle.llm.providers").joinpath("data/wire.yaml").read_bytes()
    data = msgspec.yaml.decode(raw, type=_File)
    return WireRules(
        frozenset(data.request_headers),
        {name.encode("ascii"): name for name in data.response_headers},
        tuple(re.compile(pattern) for pattern in data.mask),
    )
