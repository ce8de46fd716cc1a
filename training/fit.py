"""Fitting both tiers: seeded, one thread, numpy only. Attacks are learned from their most suspicious window."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparkle.llm.safety.classifier_deep import INPUTS
from sparkle.llm.safety.classifier_fast import WIDTH
from training.rows import Row
from training.windows import Array

SEED = 20261123


OWN = 0.25
"""What our own texts count: they are so many that the public sets would hardly be heard beside them."""


def row_weights(rows: Sequence[Row]) -> Array:
    """What each row counts: sets by the root of their size, our own less, languages balanced between both labels, both
    labels alike.
    """
    sizes = Counter((row.source, row.label) for row in rows)
    weights = np.array([row.weight / np.sqrt(sizes[row.source, row.label]) for row in rows])
    weights *= np.array([1.0 if row.author == "public" else OWN for row in rows])
    labels = np.array([row.label for row in rows])
    langs = np.array([row.lang for row in rows])
    for lang in sorted(set(langs.tolist())):
        here = langs == lang
        attacks, harmless = weights[here & (labels == 1)].sum(), weights[here & (labels == 0)].sum()
        if attacks > 0 and harmless > 0:
            # Half way to balance: enough that a language is no evidence, without blowing few rows up.
            share = (attacks / harmless) ** 0.5
            weights[here & (labels == 1)] /= share**0.5
            weights[here & (labels == 0)] *= share**0.5
    for label in (0, 1):
        weights[labels == label] *= len(rows) / 2 / max(weights[labels == label].sum(), 1e-9)
    return weights


@dataclass(slots=True)
class Adam:
    """Adam over dense arrays, updated in place."""

    values: list[Array]
    rate: float
    decay: float = 0.0
    step: int = 0
    squares: Array | None = None
    _first: list[Array] | None = None
    _second: list[Array] | None = None

    def update(self, gradients: Sequence[Array]) -> None:
        """One step down the gradients."""
        if self._first is None or self._second is None:
            self._first = [np.zeros_like(value) for value in self.values]
            self._second = [np.zeros_like(value) for value in self.values]
        self.step += 1
        for value, gradient, first, second in zip(
            self.values, gradients, self._first, self._second, strict=True
        ):
            first += 0.1 * (gradient - first)
            second += 0.01 * (gradient * gradient - second)
            scale = self.rate / (1 - 0.9**self.step)
            value -= (
                scale * first / (np.sqrt(second / (1 - 0.99**self.step)) + 1e-8)
                + self.rate * self.decay * value
            )


def sigmoid(values: Array) -> Array:
    """Logistic function."""
    return 1 / (1 + np.exp(-np.clip(values, -30, 30)))


def suspicious(
    logits: Array, owner: Array, starts: Array, labels: Array, learn: Array
) -> tuple[Array, Array]:
    """The windows to learn from and what each counts: the worst of an attack, the four worst of a harmless text."""
    order = np.lexsort((-logits, owner))
    rank = np.empty(len(logits), int)
    rank[order] = np.arange(len(logits)) - starts[owner[order]]
    attack = labels[owner] == 1
    keep = learn[owner] & np.where(attack, rank < 1, rank < 4)
    return keep, np.where(attack | (rank == 0), 1.0, 0.3)


HIDDEN = 64
"""Units of one head of the deep tier."""


class DeepFit:
    """A segment's embedding beside the mean of its text's, to a logit through one hidden layer."""

    def __init__(self, seed: int = SEED) -> None:
        rng = np.random.default_rng(seed)
        self.inner = rng.normal(0, 0.25 / np.sqrt(INPUTS / 512), (INPUTS, HIDDEN)).astype(np.float32)
        self.inner_bias = np.zeros(HIDDEN, np.float32)
        self.outer = rng.normal(0, 0.12, HIDDEN).astype(np.float32)
        self.outer_bias = np.zeros(1, np.float32)
        self._rng = rng

    def logits(self, segments: Array, around: Array, owner: Array) -> Array:
        """One logit a segment; ``around`` has one row a text, ``owner`` says whose a segment is."""
        half = self.inner.shape[0] // 2
        hidden = np.maximum(
            segments @ self.inner[:half] + (around @ self.inner[half:])[owner] + self.inner_bias, 0
        )
        return hidden @ self.outer + self.outer_bias[0]

    def fit(self, x: Array, y: Array, w: Array, epochs: int, rate: float = 2e-3, decay: float = 0.02) -> None:
        """Minimise the weighted logistic loss; targets are softened, because some labels are wrong."""
        target = y * 0.96 + 0.02
        optimizer = Adam([self.inner, self.inner_bias, self.outer, self.outer_bias], rate, decay)
        batch = 256
        for epoch in range(epochs):
            optimizer.rate = rate * (1 - epoch / epochs) + rate * 0.05
            order = self._rng.permutation(len(x))
            for at in range(0, len(x), batch):
                rows = order[at : at + batch]
                inputs = x[rows]
                hidden = np.maximum(inputs @ self.inner + self.inner_bias, 0)
                mask = self._rng.random(hidden.shape, np.float32) > 0.2
                hidden = hidden * mask / 0.8
                out = hidden @ self.outer + self.outer_bias[0]
                error = ((sigmoid(out) - target[rows]) * w[rows]).astype(np.float32) / len(rows)
                back = error[:, None] * self.outer * (hidden > 0) * mask / 0.8
                optimizer.update([inputs.T @ back, back.sum(0), hidden.T @ error, error.sum(keepdims=True)])


class FastFit:
    """N-gram weights and word vectors, learned together.

    A word's vector is its first vector times a projection plus a small difference of its own, so that what is learned
    about a word holds for words like it.
    """

    def __init__(self, words: Array, buckets: int, seed: int = SEED) -> None:
        rng = np.random.default_rng(seed)
        self.words = words
        self.projection = (
            rng.normal(0, 1 / np.sqrt(words.shape[1]), (words.shape[1], WIDTH)).astype(np.float32) * 2
        )
        self.own = np.zeros((len(words), WIDTH), np.float32)
        self.hidden_bias = np.zeros(WIDTH, np.float32)
        self.output = rng.normal(0, 0.2, WIDTH).astype(np.float32)
        self.bias = np.zeros(1, np.float32)
        self.ngrams = np.zeros(buckets, np.float32)
        self._rng = rng

    def vectors(self) -> Array:
        """float32, words x 32."""
        return self.words @ self.projection + self.own

    def logits(self, ngrams: Any, vectors: Any) -> Array:
        """One logit a row of both matrices."""
        hidden = np.maximum(vectors @ self.vectors() + self.hidden_bias, 0)
        return hidden @ self.output + ngrams @ self.ngrams + self.bias[0]

    def fit(self, ngrams: Any, vectors: Any, y: Array, w: Array, epochs: int, rate: float = 3e-3) -> None:
        """Minimise the weighted logistic loss."""
        target = y * 0.96 + 0.02
        dense = np.asarray(vectors @ self.words, np.float32)
        dense_fit = Adam([self.projection, self.hidden_bias, self.output, self.bias], rate, 0.02)
        grams = Adam([self.ngrams], 0.0, 0.0)
        own = Adam([self.own], 0.0, 0.0)
        batch = 1024
        for epoch in range(epochs):
            now = 1 - epoch / epochs + 0.05
            dense_fit.rate, grams.rate, own.rate = rate * now, 0.05 * now, 0.006 * now
            grams.decay, own.decay = 0.02, 0.1
            order = self._rng.permutation(len(y))
            for at in range(0, len(y), batch):
                rows = order[at : at + batch]
                g: Any = ngrams[rows]
                v: Any = vectors[rows]
                d: Array = dense[rows]
                before: Array = d @ self.projection + v @ self.own + self.hidden_bias
                hidden = np.maximum(before, 0)
                mask = self._rng.random(hidden.shape, np.float32) > 0.1
                hidden = hidden * mask / 0.9
                # N-grams are left out of a third of the texts: else the vectors, which know more words, learn little.
                heard = (self._rng.random(len(rows)) > 0.3).astype(np.float32)
                out = hidden @ self.output + heard * (g @ self.ngrams) + self.bias[0]
                error = ((sigmoid(out) - target[rows]) * w[rows]).astype(np.float32) / len(rows)
                back = error[:, None] * self.output * (hidden > 0) * mask / 0.9
                dense_fit.update([d.T @ back, back.sum(0), hidden.T @ error, error.sum(keepdims=True)])
                _sparse_step(grams, g, error * heard)
                _sparse_step(own, v, back)


def _sparse_step(optimizer: Adam, matrix: Any, error: Array) -> None:
    """An Adagrad step on the touched rows only: a batch holds a few thousand of a million n-grams."""
    value = optimizer.values[0]
    if optimizer.squares is None:
        optimizer.squares = np.zeros_like(value)
    touched, places = np.unique(matrix.indices, return_inverse=True)
    small: Any = sp.csr_matrix(
        (matrix.data, places.ravel(), matrix.indptr), shape=(matrix.shape[0], len(touched))
    )
    gradient: Array = np.asarray(small.T @ error)
    optimizer.squares[touched] += gradient * gradient
    value[touched] -= optimizer.rate * (
        gradient / (np.sqrt(optimizer.squares[touched]) + 1e-6) + optimizer.decay * value[touched]
    )
