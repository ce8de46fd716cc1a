"""Both tiers from the rows they may learn from; the same steps for the shipped weights and for left-out families."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np

from sparkle.llm.safety.classifier_deep import user_cache
from sparkle.llm.safety.classifier_encoder import DIMENSIONS, Encoder, cache_name, unpack
from sparkle.llm.safety.classifier_features import MASK
from sparkle.llm.safety.classifier_segments import touched
from training.fit import SEED, DeepFit, FastFit, row_weights, suspicious
from training.rows import ASIDE, Row
from training.windows import (
    ASK_BYTES,
    Array,
    Embeddings,
    Segments,
    Windows,
    cut,
    cut_segments,
    ngram_matrix,
    vector_matrix,
)
from training.words import Words, known_words

HEADS = 3
"""Heads of the shipped deep tier, whose mean is taken."""


@dataclass(frozen=True, slots=True)
class Material:
    """Everything that training needs of the rows, computed once."""

    rows: Sequence[Row]
    labels: Array
    weights: Array
    windows: Windows
    words: Words
    ngrams: Any
    vectors: Any
    segments: Segments
    embeddings: Array
    """float32, segments x 1,024."""
    around: Array
    """float32, rows x 1,024: the mean embedding of each row."""

    def embeddings_read(self, fast: Array) -> tuple[Array, Array]:
        """Which segments the deep tier reads, and for each row the mean embedding of those.

        Args:
            fast: the fast tier's logits of all windows, which choose in long texts.
        """
        segments, windows = self.segments, self.windows
        keep = np.ones(len(segments.owner), bool)
        window_ends = np.append(windows.starts[1:], len(windows.owner))
        segment_ends = np.append(segments.starts[1:], len(segments.owner))
        around = self.around.copy()
        for row, source in segments.sources.items():
            here = range(windows.starts[row], window_ends[row])
            suspects = sorted(here, key=lambda window: -float(fast[window]))
            first, last = int(segments.starts[row]), int(segment_ends[row])
            where = (windows.places[window] for window in suspects)
            chosen = np.array(touched(source, segments.places[first:last], where, ASK_BYTES)) + first
            keep[first:last] = False
            keep[chosen] = True
            around[row] = self.embeddings[chosen].mean(axis=0)
        return keep, around


@dataclass(frozen=True, slots=True)
class Tiers:
    """Both tiers, fitted."""

    fast: FastFit
    heads: list[DeepFit]

    def logits(self, material: Material) -> tuple[Array, Array]:
        """For every row the fast tier's greatest window and the deep tier's greatest segment."""
        m = material
        fast = self.fast.logits(m.ngrams, m.vectors)
        keep, around = m.embeddings_read(fast)
        deep = np.mean([head.logits(m.embeddings, around, m.segments.owner) for head in self.heads], axis=0)
        deep[~keep] = -np.inf
        return np.maximum.reduceat(fast, m.windows.starts), np.maximum.reduceat(deep, m.segments.starts)


def open_encoder() -> Encoder:
    """The encoder from the user's cache, unpacked there if need be."""
    folder = user_cache() / cache_name()
    if not folder.is_dir():
        unpack(folder)
    return Encoder(folder)


def prepare(rows: Sequence[Row], work: Path) -> Material:
    """Cut, count and embed; ``work`` keeps embeddings between runs."""
    encoder = open_encoder()
    windows, segments = cut(rows), cut_segments(rows)
    words = known_words(encoder, segments.texts)
    embeddings = Embeddings(encoder, work / f"embeddings-{DIMENSIONS}.npz").of(segments.texts)
    sizes = np.diff(np.append(segments.starts, len(segments.owner)))
    around = np.add.reduceat(embeddings, segments.starts, axis=0) / sizes[:, None]
    return Material(
        rows=rows,
        labels=np.array([row.label for row in rows]),
        weights=row_weights(rows),
        windows=windows,
        words=words,
        ngrams=ngram_matrix(windows),
        vectors=vector_matrix(windows, words.keys),
        segments=segments,
        embeddings=embeddings,
        around=around.astype(np.float32),
    )


def train(material: Material, learn: Array, *, heads: int = 1) -> Tiers:
    """Both tiers from the rows where ``learn`` is true."""
    return Tiers(_fast(material, learn), [_deep(material, learn, SEED + number) for number in range(heads)])


def _deep(m: Material, learn: Array, seed: int) -> DeepFit:
    """First from whole texts, then twice from the segments that the one before finds most suspicious."""
    owner, starts = m.segments.owner, m.segments.starts
    head = DeepFit(seed)
    whole = np.concatenate((m.around, m.around), axis=1)
    head.fit(whole[learn], m.labels[learn], m.weights[learn], 3)
    for epochs in (4, 14):
        keep, counts = suspicious(head.logits(m.embeddings, m.around, owner), owner, starts, m.labels, learn)
        chosen = np.flatnonzero(keep)
        inputs = np.concatenate((m.embeddings[chosen], m.around[owner[chosen]]), axis=1)
        head = DeepFit(seed)
        head.fit(inputs, m.labels[owner[chosen]], m.weights[owner[chosen]] * counts[chosen], epochs)
    return head


def _fast(m: Material, learn: Array) -> FastFit:
    owner, starts = m.windows.owner, m.windows.starts
    sizes = np.diff(np.append(starts, len(owner)))[owner]
    keep, counts = learn[owner], 1 / sizes
    fit = FastFit(m.words.vectors, MASK + 1)
    for epochs in (2, 10):
        chosen = np.flatnonzero(keep)
        fit = FastFit(m.words.vectors, MASK + 1)
        weights = m.weights[owner[chosen]] * counts[chosen]
        fit.fit(m.ngrams[chosen], m.vectors[chosen], m.labels[owner[chosen]], weights, epochs)
        keep, counts = suspicious(fit.logits(m.ngrams, m.vectors), owner, starts, m.labels, learn)
    return fit


def left_out_logits(
    material: Material, fold: Array, carrier: Array, say: Callable[[str], None]
) -> tuple[Array, Array]:
    """For every row the logits of tiers that never saw its family, nor a text put into it: fast, deep.

    Rows that are in no fold are judged by the tiers of all folds, whose mean is taken; those that stay in all get NaN.
    """
    fast, deep = np.full(len(material.rows), np.nan), np.full(len(material.rows), np.nan)
    aside = fold == ASIDE
    numbers = sorted(set(fold[fold >= 0].tolist()))
    fast[aside] = deep[aside] = 0.0
    for number in numbers:
        here = fold == number
        some_fast, some_deep = train(material, ~here & (carrier != number) & ~aside).logits(material)
        fast[here], deep[here] = some_fast[here], some_deep[here]
        fast[aside] += some_fast[aside] / len(numbers)
        deep[aside] += some_deep[aside] / len(numbers)
        say(f"left out fold {number}: {int(here.sum())} rows")
    return fast, deep


def left_out_rows(material: Material, aside: Array, real: Array, carried: Array) -> tuple[Array, Array]:
    """For a fifth of the public rows the logits of tiers that saw the rest of their sets: fast, deep; NaN elsewhere.

    Args:
        material: everything.
        aside: rows that are learned from in no fold.
        real: rows that were not made of others.
        carried: rows made with a second text, which may be one of those left out.
    """
    digests = np.array([crc32(row.text.encode("utf-8", "replace")) % 5 for row in material.rows])
    out = real & (digests == 0) & np.array([row.author == "public" for row in material.rows])
    fast, deep = train(material, ~out & ~aside & ~carried).logits(material)
    fast[~out] = np.nan
    deep[~out] = np.nan
    return fast, deep
