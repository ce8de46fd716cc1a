"""The fast tier: weighs hashed n-grams and adds up small word vectors, window by window, in integers.

A window's logit is the sum of its n-grams' weights plus one hidden layer of ``WIDTH`` rectified units over the sum of
its tokens' vectors. All is whole numbers, done in bulk without numpy: the n-grams of a text are made by shifting one
integer that holds all its tokens, 32 bits each; a token's vector is one integer of 16 bits a component, so that adding
two is one addition. Long texts are computed with numpy if something else has imported it already; the sums are the
same to the last bit.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Callable, Sequence
from functools import lru_cache
from itertools import compress, pairwise
from math import sqrt
from operator import itemgetter
from typing import Any

from msgspec import Struct

from sparkle.llm.safety.classifier_features import (
    BITS,
    MASK,
    PER_TOKEN,
    START,
    STRIDE,
    token_hashes,
    window_bounds,
)
from sparkle.llm.safety.classifier_file import ModelFile, ModelFileError

WIDTH = 32
"""Dimensions of a token's vector."""

_FIELD = 16
_BIAS = 128
_MAX_KNOWN = 32_768
"""Vectors kept unpacked; beyond it all are forgotten, so that memory is bounded by about 6 MB."""
_LANE = 32
"""Bits of a token in the integer that holds all of a text."""
_NUMPY_FROM = 240
"""Tokens from which numpy is faster."""
_UNSIGNED = bytes((value + 128) % 256 for value in range(256))
_NOTHING = sum(_BIAS << _FIELD * index for index in range(WIDTH))


class Window(Struct, frozen=True):
    """One window of a text and what the fast tier says about it."""

    first: int
    last: int
    """Tokens ``first:last``."""
    logit: float


class FastModel:
    """The fast tier's weights. Thread-safe; 3 bytes an n-gram and vector component, shared between forked processes.

    Args:
        file: sections ``ngrams`` (int8, 2**20), ``keys`` (uint32, sorted), ``vectors`` (int8, keys x 32),
            ``hidden_bias``, ``output`` (float32, 32); numbers ``ngram_scale``, ``vector_scale``, ``bias``.

    Raises:
        ModelFileError: a section or number is missing or has another shape.
    """

    def __init__(self, file: ModelFile) -> None:
        # Signed weights as unsigned bytes, 128 more: they index fastest.
        self._ngrams = file.raw("ngrams", "b", (MASK + 1,)).tobytes().translate(_UNSIGNED)
        self._keys = file.raw("keys", "I", (None,)).cast("I")
        self._vectors = file.raw("vectors", "b", (len(self._keys), WIDTH)).cast("b")
        self._hidden_bias = array("f", file.raw("hidden_bias", "f", (WIDTH,)).tobytes()).tolist()
        self._output = array("f", file.raw("output", "f", (WIDTH,)).tobytes()).tolist()
        self._ngram_scale = file.number("ngram_scale")
        self._vector_scale = file.number("vector_scale")
        self._bias = file.number("bias")
        if len(self._keys) == 0:
            raise ModelFileError("the model file knows no word")
        self._known = _Unpacked(self._look_up)
        # Most pairs of words are no key: a byte says so without a search.
        seen = bytearray(MASK + 1)
        for key in self._keys:
            seen[key & MASK] = 1
        self._seen = bytes(seen)

    def windows(self, data: bytes) -> list[Window]:
        """Every window of a folded text with its logit, in order; none for a text without tokens."""
        tokens = token_hashes(data)
        count = len(tokens)
        if not count:
            return []
        bounds = list(window_bounds(count))
        numpy: Any = sys.modules.get("numpy") if count >= _NUMPY_FROM else None
        if numpy is not None:
            return self._with_numpy(numpy, tokens, bounds)
        # Windows are two strides long, so sums over strides are all that is needed.
        cuts = [0, count] if len(bounds) == 1 else [*range(0, count, STRIDE), count]
        ngrams, pairs = _ngrams_of(tokens)
        weigh = itemgetter(*ngrams)
        weights, seen = weigh(self._ngrams), itemgetter(*ngrams[: 2 * count])(self._seen)
        sums: list[int] = []
        vectors: list[int] = []
        known = self._known.__getitem__
        for first, last in pairwise(cuts):
            sums.append(
                sum(weights[first:last])
                + sum(weights[count + first : count + last])
                + sum(weights[2 * count + first : 2 * count + last])
                + sum(weights[3 * count + first : 3 * count + last])
                - _BIAS * PER_TOKEN * (last - first)
            )
            words = list(compress(tokens[first:last], seen[first:last]))
            words += compress(pairs[first:last], seen[count + first : count + last])
            # As if the words without a vector had one of zeros, so that all windows have the same offset.
            vectors.append(sum(map(known, words)) + _NOTHING * (2 * (last - first) - len(words)))
        if len(bounds) > 1:
            sums = [one + two for one, two in pairwise(sums)]
            vectors = [one + two for one, two in pairwise(vectors)]
        return [
            Window(first, last, self._logit(last - first, weight, vector))
            for (first, last), weight, vector in zip(bounds, sums, vectors, strict=True)
        ]

    def _with_numpy(self, numpy: Any, tokens: list[int], bounds: list[tuple[int, int]]) -> list[Window]:
        count = len(tokens)
        these = numpy.fromiter(tokens, numpy.uint32, count)
        ones = numpy.empty_like(these)
        ones[0], ones[1:] = START, these[:-1]
        twos = numpy.empty_like(these)
        twos[0], twos[1:] = START, ones[:-1]
        pairs = these ^ ones >> 3
        table = numpy.frombuffer(self._ngrams, numpy.uint8)
        weights = numpy.full(count, -_BIAS * PER_TOKEN, numpy.int32)
        for index in (these, pairs, pairs ^ twos >> 6, these ^ twos >> 9):
            weights += table[index & MASK]
        keys = numpy.frombuffer(self._keys, numpy.uint32)
        vectors = numpy.frombuffer(self._vectors, numpy.int8).reshape(len(keys), WIDTH)
        seen = numpy.frombuffer(self._seen, numpy.uint8)
        added = numpy.zeros((count, WIDTH), numpy.int16)
        for wanted in (these, pairs):
            likely = numpy.flatnonzero(seen[wanted & MASK])
            at = numpy.minimum(numpy.searchsorted(keys, wanted[likely]), len(keys) - 1)
            met = keys[at] == wanted[likely]
            added[likely[met]] += vectors[at[met]]
        # A window is two strides, so sums over strides are all that is needed.
        blocks = numpy.arange(0, count, STRIDE)
        sums = numpy.concatenate(([0], numpy.add.reduceat(weights, blocks, dtype=numpy.int64).cumsum()))
        fields = numpy.zeros((len(blocks) + 1, WIDTH), numpy.int64)
        numpy.add.reduceat(added, blocks, axis=0, dtype=numpy.int64).cumsum(axis=0, out=fields[1:])
        first, last = numpy.array(bounds).T
        size = last - first
        begin, end = first // STRIDE, -(-last // STRIDE)
        norm = self._vector_scale / numpy.sqrt(numpy.maximum(size, 4))
        hidden = (
            numpy.maximum((fields[end] - fields[begin]) * norm[:, None] + self._hidden_bias, 0) @ self._output
        )
        ngrams = (
            (sums[end] - sums[begin]) * self._ngram_scale / numpy.sqrt(numpy.maximum(size, 2) * PER_TOKEN)
        )
        logits = (self._bias + ngrams + hidden).tolist()
        return [Window(a, b, logit) for (a, b), logit in zip(bounds, logits, strict=True)]

    def _logit(self, size: int, weight: int, vector: int) -> float:
        norm = self._vector_scale / sqrt(max(size, 4))
        logit = self._bias + weight * self._ngram_scale / sqrt(max(size, 2) * PER_TOKEN)
        offset = 2 * size * _BIAS
        fields = memoryview(vector.to_bytes(WIDTH * _FIELD // 8, "little")).cast("H").tolist()
        for field, bias, output in zip(fields, self._hidden_bias, self._output, strict=True):
            hidden = (field - offset) * norm + bias
            if hidden > 0:
                logit += hidden * output
        return logit

    def _vector(self, key: int) -> int:
        return self._known[key] if self._seen[key & MASK] else _NOTHING

    def _look_up(self, key: int) -> int:
        keys = self._keys
        at = bisect_left(keys, key)
        if at == len(keys) or keys[at] != key:
            return _NOTHING
        packed = 0
        for value in reversed(self._vectors[at * WIDTH : (at + 1) * WIDTH]):
            packed = packed << _FIELD | value + _BIAS
        return packed

    def evidence(self, data: bytes, window: Window) -> list[float]:
        """How much each token of a window adds to its logit (a first-order estimate), for explanations."""
        before = max(window.first - 2, 0)
        lead = window.first - before
        tokens = token_hashes(data)[before : window.last]
        size = max(window.last - window.first, 1)
        count = len(tokens)
        ngrams, pairs = _ngrams_of(tokens)
        grams = itemgetter(*ngrams)(self._ngrams)
        weights = [sum(grams[at::count]) - _BIAS * PER_TOKEN for at in range(lead, count)]
        vectors = [
            memoryview(
                (self._vector(tokens[at]) + self._vector(pairs[at])).to_bytes(WIDTH * _FIELD // 8, "little")
            )
            .cast("H")
            .tolist()
            for at in range(lead, count)
        ]
        norm = self._vector_scale / sqrt(max(size, 4))
        active = [0.0] * WIDTH
        for unit in range(WIDTH):
            total = sum(vector[unit] - 2 * _BIAS for vector in vectors)
            if total * norm + self._hidden_bias[unit] > 0:
                active[unit] = self._output[unit] * norm
        scale = self._ngram_scale / sqrt(max(size, 2) * PER_TOKEN)
        return [
            weight * scale + sum((field - 2 * _BIAS) * out for field, out in zip(vector, active, strict=True))
            for weight, vector in zip(weights, vectors, strict=True)
        ]


class _Unpacked(dict[int, int]):
    """Vectors that were met, packed; a dictionary, because it is asked for in bulk."""

    def __init__(self, look_up: Callable[[int], int]) -> None:
        super().__init__()
        self._look_up = look_up

    def __missing__(self, key: int) -> int:
        if len(self) >= _MAX_KNOWN:
            self.clear()
        packed = self[key] = self._look_up(key)
        return packed


def _ngrams_of(tokens: Sequence[int]) -> tuple[list[int], list[int]]:
    """The buckets of all n-grams of a text (its tokens, then pairs, threes and pairs with a gap), and its pairs.

    What ends at a token is made of it, the one before shifted by 3, the one before that by 6, or over the gap by 9.
    """
    count = len(tokens)
    these = int.from_bytes(array("I", tokens).tobytes(), "little")
    whole = (1 << count * _LANE) - 1
    ones = (these << _LANE | START) & whole
    twos = (ones << _LANE | START) & whole
    pairs = these ^ ones >> 3 & _lanes(count, 3)
    buckets = _lanes(count, _LANE - BITS)
    ngrams: list[int] = []
    for made in (these, pairs, pairs ^ twos >> 6 & _lanes(count, 6), these ^ twos >> 9 & _lanes(count, 9)):
        ngrams += _split(made & buckets, count)
    return ngrams, _split(pairs, count)


def _split(lanes: int, count: int) -> list[int]:
    return memoryview(lanes.to_bytes(count * _LANE // 8, "little")).cast("I").tolist()


@lru_cache(maxsize=64)
def _lane(shifted: int) -> bytes:
    return ((1 << _LANE - shifted) - 1).to_bytes(_LANE // 8, "little")


def _lanes(count: int, shifted: int) -> int:
    """A mask of the bits of every token that remain when all are shifted down by so many."""
    return int.from_bytes(_lane(shifted) * count, "little")
