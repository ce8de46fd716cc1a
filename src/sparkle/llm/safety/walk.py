"""Finding every string of a value of unknown shape."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import cast

import msgspec

from sparkle.errors import InvalidRequestError
from sparkle.llm.policy import Trust
from sparkle.llm.safety.payload import is_binary, uri_text
from sparkle.llm.safety.pieces import Piece, render_path
from sparkle.llm.safety.redact import Keys
from sparkle.llm.safety.resources import read_data

MAX_DEPTH = 32
"""Deepest nesting that is searched for strings; deeper is refused."""

NODES_PER_STRING = 20
"""Values of any kind that are looked at for each string allowed: empty lists and numbers cost time too."""

_PAYLOAD_KEYS = frozenset(
    {"data", "file_data", "bytes", "b64_json", "url", "image", "audio", "video", "image_url"}
)
_ID_KEYS = frozenset({"id", "tool_call_id", "call_id", "file_id"})
_WORD_CHARS = 24
_ID = re.compile(r"(?=[^0-9]*[0-9])[A-Za-z0-9_.:\-]{1,64}", re.ASCII)


class RequestWords(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Words of the request format, from ``data/request_fields.yaml``."""

    vocabulary: frozenset[str]
    settings: frozenset[str]


@lru_cache(maxsize=1)
def request_words() -> RequestWords:
    """The words, read once."""
    return msgspec.yaml.decode(read_data("request_fields.yaml"), type=RequestWords)


class TooManyStringsError(Exception):
    """There are more strings than may be; nobody need look at the rest."""


class Walker:
    """Collects the strings of one request.

    Args:
        most: strings after which to give up; ``None``: never.
    """

    def __init__(self, most: int | None) -> None:
        self.items: list[Piece] = []
        self.strings = 0
        self.total = 0
        self.words = request_words()
        self._vocabulary = self.words.vocabulary
        self._most = most
        self._nodes = 0

    def add(self, piece: Piece) -> None:
        """Take one text; an empty one says nothing.

        Raises:
            TooManyStringsError: it is one too many.
        """
        if not piece.text:
            return
        self.strings += 1
        self.total += len(piece.text)
        if self._most is not None and self.strings > self._most:
            raise TooManyStringsError
        self.items.append(piece)

    def count(self, values: int) -> None:
        """Take note that so many values are going to be looked at.

        Raises:
            TooManyStringsError: they are too many.
        """
        self._nodes += values
        if self._most is not None and self._nodes > self._most * NODES_PER_STRING:
            self.strings = self._most + 1
            raise TooManyStringsError

    def key(self, holder: Keys, key: object, trust: Trust) -> None:
        """Take a key of an object, told under its holder's path, unless it is a word of the format or a number."""
        text = str(key)
        if len(text) <= _WORD_CHARS and (text in self._vocabulary or text.isdecimal()):
            return
        self.add(Piece(holder, text, trust, fixed=True))

    def value(self, keys: Keys, value: object, trust: Trust, *, fixed: bool = False, depth: int = 0) -> None:
        """Take all strings in a value, keys of objects included.

        Raises:
            InvalidRequestError: it is nested too deeply.
            TooManyStringsError: it holds too much.
        """
        if depth > MAX_DEPTH:
            raise InvalidRequestError(f"nested deeper than {MAX_DEPTH}", param=render_path(keys[:4]))
        if isinstance(value, str):
            self.string(keys, value, trust, fixed=fixed)
        elif isinstance(value, Mapping):
            self.count(len(cast("Mapping[object, object]", value)))
            for key, inner in cast("Mapping[object, object]", value).items():
                self.key(keys, key, trust)
                if isinstance(inner, int | float | None):
                    continue
                self.value(
                    (*keys, key if isinstance(key, int) else str(key)),
                    inner,
                    trust,
                    fixed=fixed or not isinstance(key, str),
                    depth=depth + 1,
                )
        elif isinstance(value, Sequence) and not isinstance(value, bytes | bytearray):
            self.count(len(cast("Sequence[object]", value)))
            for number, inner in enumerate(cast("Sequence[object]", value)):
                if not isinstance(inner, int | float | None):
                    self.value((*keys, number), inner, trust, fixed=fixed, depth=depth + 1)

    def string(self, keys: Keys, text: str, trust: Trust, *, fixed: bool = False) -> None:
        """Take one string, unless it is a word of the format, an identifier where one belongs, or really binary."""
        if len(text) <= _WORD_CHARS and text in self._vocabulary:
            return
        key = keys[-1]
        if key in _ID_KEYS and _ID.fullmatch(text):
            return
        if text[:5].lower() == "data:":
            said = uri_text(text)
            if said is not None:
                self.add(Piece(keys, said[0], trust, length=len(text) if said[1] else None, fixed=fixed))
        elif not (key in _PAYLOAD_KEYS and is_binary(text)):
            self.add(Piece(keys, text, trust, fixed=fixed))
