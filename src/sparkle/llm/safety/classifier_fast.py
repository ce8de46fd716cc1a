"""The fast tier: weighs hashed n-grams and adds up small word vectors, window by window, in integers.

A window's logit is the sum of its n-grams' weights plus one hidden layer of ``WIDTH`` rectified units over the sum of
its tokens' vectors. A token's vector is packed into one Python integer, 16 bits a component, so that adding two is one
addition. Long texts are computed with numpy if something else has imported it already; the result is the same to the
last bit of the sums.
"""

from __future__ import annotations

import sys
from array import array
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from math import sqrt
from typing import Any

from sparkle.llm.safety.classifier_features import (
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
_NUMPY_FROM = 200
"""Tokens from which numpy is faster."""
_NOTHING = sum(_BIAS << _FIELD * index for index in range(WIDTH))


@dataclass(frozen=True, slots=True)
class Window:
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
        self._ngrams = file.raw("ngrams", "b", (MASK + 1,)).cast("b")
        self._keys = file.raw("keys", "I", (None,)).cast("I")
        self._vectors = file.raw("vectors", "b", (len(self._keys), WIDTH)).cast("b")
        self._hidden_bias = array("f", file.raw("hidden_bias", "f", (WIDTH,)).tobytes()).tolist()
        self._output = array("f", file.raw("output", "f", (WIDTH,)).tobytes()).tolist()
        self._ngram_scale = file.number("ngram_scale")
        self._vector_scale = file.number("vector_scale")
        self._bias = file.number("bias")
        if len(self._keys) == 0:
            raise ModelFileError("the model file knows no word")
        self._known: dict[int, int] = {}
        # Most pairs of words are no key: a byte says so without a search.
        seen = bytearray(MASK + 1)
        for key in self._keys:
            seen[key & MASK] = 1
        self._seen = bytes(seen)

    def windows(self, data: bytes) -> list[Window]:
        """Every window of a folded text with its logit, in order; none for a text without tokens."""
        tokens = token_hashes(data)
        if not tokens:
            return []
        bounds = list(window_bounds(len(tokens)))
        numpy: Any = sys.modules.get("numpy") if len(tokens) >= _NUMPY_FROM else None
        if numpy is not None:
            return self._with_numpy(numpy, tokens, bounds)
        weights = self.ngram_weights(tokens)
        sums = list(accumulate(weights, initial=0))
        packed = self._packed(tokens)
        found: list[Window] = []
        for first, last in bounds:
            size = last - first
            total = sum(packed[first:last])
            fields = memoryview(total.to_bytes(WIDTH * _FIELD // 8, "little")).cast("H")
            norm = self._vector_scale / sqrt(max(size, 4))
            offset = 2 * size * _BIAS
            logit = self._bias + (sums[last] - sums[first]) * self._ngram_scale / sqrt(
                max(size, 2) * PER_TOKEN
            )
            for field, bias, output in zip(fields, self._hidden_bias, self._output, strict=True):
                hidden = (field - offset) * norm + bias
                if hidden > 0:
                    logit += hidden * output
            found.append(Window(first, last, logit))
        return found

    def ngram_weights(self, tokens: Sequence[int]) -> list[int]:
        """For every token the sum of the weights of the n-grams that end there."""
        table, mask = self._ngrams, MASK
        ones = [START, *tokens]
        return [
            table[this & mask]
            + table[(this ^ one >> 3) & mask]
            + table[(this ^ one >> 3 ^ two >> 6) & mask]
            + table[(this ^ two >> 9) & mask]
            for this, one, two in zip(tokens, ones, [START, *ones], strict=False)
        ]

    def _packed(self, tokens: Sequence[int]) -> list[int]:
        """For every token its vector and that of it with the one before, added, packed, each component plus 128."""
        known, seen, mask, miss = self._known, self._seen, MASK, self._look_up
        pairs = [this ^ one >> 3 for this, one in zip(tokens, [START, *tokens], strict=False)]
        return [
            ((known[this] if this in known else miss(this)) if seen[this & mask] else _NOTHING)
            + ((known[pair] if pair in known else miss(pair)) if seen[pair & mask] else _NOTHING)
            for this, pair in zip(tokens, pairs, strict=True)
        ]

    def _look_up(self, key: int) -> int:
        keys = self._keys
        at = bisect_left(keys, key)
        packed = _NOTHING
        if at < len(keys) and keys[at] == key:
            packed = 0
            for value in reversed(self._vectors[at * WIDTH : (at + 1) * WIDTH]):
                packed = packed << _FIELD | value + _BIAS
        if len(self._known) >= _MAX_KNOWN:
            self._known = {}
        self._known[key] = packed
        return packed

    def _with_numpy(self, numpy: Any, tokens: list[int], bounds: list[tuple[int, int]]) -> list[Window]:
        count = len(tokens)
        these = numpy.fromiter(tokens, numpy.uint32, count)
        ones = numpy.empty_like(these)
        ones[0], ones[1:] = START, these[:-1]
        twos = numpy.empty_like(these)
        twos[0], twos[1:] = START, ones[:-1]
        pairs = these ^ ones >> 3
        table = numpy.frombuffer(self._ngrams, numpy.int8)
        weights = numpy.zeros(count, numpy.int32)
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

    def evidence(self, data: bytes, window: Window) -> list[float]:
        """How much each token of a window adds to its logit (a first-order estimate), for explanations."""
        before = max(window.first - 2, 0)
        lead = window.first - before
        tokens = token_hashes(data)[before : window.last]
        size = max(window.last - window.first, 1)
        packed = self._packed(tokens)[lead:]
        weights = self.ngram_weights(tokens)[lead:]
        vectors = [memoryview(p.to_bytes(WIDTH * _FIELD // 8, "little")).cast("H").tolist() for p in packed]
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
