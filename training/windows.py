"""Texts as the runtime sees them: windows of tokens, their n-grams as sparse rows, their embeddings from a cache."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp

from sparkle.llm.safety.classifier_encoder import DIMENSIONS, Encoder
from sparkle.llm.safety.classifier_features import MASK, START, token_hashes, window_bounds
from sparkle.llm.safety.classifier_segments import places, segments, size
from sparkle.llm.safety.fold import readable_table
from sparkle.llm.safety.views import View, visible
from training.rows import Row

Array = np.ndarray[Any, Any]
ASK_BYTES = 400
"""Of a text, that the deep tier reads when asked: five times cheaper than 1,100, and it finds as much."""

MAX_WINDOWS = 24
"""Windows of one text that are learned from, spread evenly; more say nothing new."""


@dataclass(frozen=True, slots=True)
class Segments:
    """What the deep tier reads of all rows."""

    owner: Array
    starts: Array
    texts: list[str]
    places: list[tuple[int, int]]
    """Their code points."""
    sources: dict[int, str]
    """The readings of those rows of which the deep tier reads a part only."""


MAX_SEGMENTS = 40
"""Segments of one text that are learned from, spread evenly."""


def cut_segments(rows: Sequence[Row]) -> Segments:
    """Segments of the plain reading of each row."""
    owner: list[int] = []
    starts: list[int] = []
    texts: list[str] = []
    where: list[tuple[int, int]] = []
    sources: dict[int, str] = {}
    table = readable_table()
    for index, row in enumerate(rows):
        source = visible(View("text", row.text)).source.translate(table)
        found = segments(source)
        if len(found) > MAX_SEGMENTS:
            found = [found[int(at)] for at in np.linspace(0, len(found) - 1, MAX_SEGMENTS)]
        starts.append(len(owner))
        owner += [index] * len(found)
        texts += [source[start:end] or " " for start, end in found]
        where += found
        if size(source) > ASK_BYTES:
            sources[index] = source
    return Segments(np.array(owner), np.array(starts), texts, where, sources)


@dataclass(frozen=True, slots=True)
class Windows:
    """All windows of all rows."""

    owner: Array
    """Index of the row of each window, ascending."""
    starts: Array
    """Index of the first window of each row."""
    tokens: list[Array]
    """Token hashes of each window, with the two tokens before it for n-grams that reach over its beginning."""
    lead: Array
    """How many of those stand before the window."""
    places: list[tuple[int, int]]
    """Their code points."""


def cut(rows: Sequence[Row], most: int = MAX_WINDOWS) -> Windows:
    """Windows of the plain reading of each row."""
    owner: list[int] = []
    starts: list[int] = []
    tokens: list[Array] = []
    lead: list[int] = []
    where: list[tuple[int, int]] = []
    for index, row in enumerate(rows):
        view = visible(View("text", row.text))
        hashes = np.array(token_hashes(view.data) or [START], np.uint32)
        bounds = list(window_bounds(len(hashes)))
        if len(bounds) > most:
            bounds = [bounds[int(i)] for i in np.linspace(0, len(bounds) - 1, most)]
        where += places(view, bounds) if view.data.strip() and token_hashes(view.data) else [(0, 0)]
        starts.append(len(owner))
        for first, last in bounds:
            before = min(first, 2)
            owner.append(index)
            tokens.append(hashes[first - before : last])
            lead.append(before)
    return Windows(np.array(owner), np.array(starts), tokens, np.array(lead), where)


def ngram_matrix(windows: Windows) -> Any:
    """A CSR matrix, windows x 2**20: how often each n-gram occurs, divided by the root of their number."""
    columns: list[Array] = []
    values: list[Array] = []
    pointers = [0]
    start = np.uint32(START)
    for hashes, lead in zip(windows.tokens, windows.lead.tolist(), strict=True):
        ones = np.concatenate(([start], hashes[:-1])).astype(np.uint32)
        twos = np.concatenate(([start], ones[:-1])).astype(np.uint32)
        pairs = hashes ^ ones >> np.uint32(3)
        grams = np.stack((hashes, pairs, pairs ^ twos >> np.uint32(6), hashes ^ twos >> np.uint32(9)), 1)[
            lead:
        ]
        flat = (grams & np.uint32(MASK)).ravel().astype(np.int32)
        columns.append(flat)
        values.append(np.full(len(flat), 1 / np.sqrt(max(len(grams), 2) * 4), np.float32))
        pointers.append(pointers[-1] + len(flat))
    made = sp.csr_matrix(
        (np.concatenate(values), np.concatenate(columns), np.array(pointers)),
        shape=(len(pointers) - 1, MASK + 1),
    )
    made.sum_duplicates()
    return made


def vector_matrix(windows: Windows, keys: Array) -> Any:
    """A CSR matrix, windows x known words and pairs, divided by the root of the number of tokens."""
    columns: list[Array] = []
    values: list[Array] = []
    pointers = [0]
    for hashes, lead in zip(windows.tokens, windows.lead.tolist(), strict=True):
        ones = np.concatenate(([np.uint32(START)], hashes[:-1])).astype(np.uint32)
        wanted = np.concatenate((hashes[lead:], (hashes ^ ones >> np.uint32(3))[lead:]))
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        met = at[keys[at] == wanted].astype(np.int32)
        columns.append(met)
        values.append(np.full(len(met), 1 / np.sqrt(max(len(hashes) - lead, 4)), np.float32))
        pointers.append(pointers[-1] + len(met))
    made = sp.csr_matrix(
        (np.concatenate(values), np.concatenate(columns), np.array(pointers)),
        shape=(len(pointers) - 1, len(keys)),
    )
    made.sum_duplicates()
    return made


class Embeddings:
    """Embeddings of window texts, kept in a file between runs (float16, 2 KB each)."""

    def __init__(self, encoder: Encoder, file: Path) -> None:
        self._encoder = encoder
        self._file = file
        self._known: dict[str, Array] = {}
        if file.exists():
            with np.load(file, allow_pickle=False) as kept:
                self._known = dict(zip(kept["keys"].tolist(), kept["values"], strict=True))

    def of(self, texts: Sequence[str]) -> Array:
        """float32, texts x 1,024."""
        keys = [
            hashlib.md5(text.encode("utf-8", "replace"), usedforsecurity=False).hexdigest() for text in texts
        ]
        missing = {key: text for key, text in zip(keys, texts, strict=True) if key not in self._known}
        # Texts of about the same length together, so that batches are full; the order is the same on every machine.
        ordered = sorted(missing.items(), key=lambda item: (len(item[1]), item[0]))
        for at in range(0, len(ordered), 64):
            some = ordered[at : at + 64]
            for (key, _), value in zip(some, self._encoder.embed([text for _, text in some]), strict=True):
                self._known[key] = value.astype(np.float16)
        if missing:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            np.savez(
                self._file, keys=np.array(list(self._known)), values=np.stack(list(self._known.values()))
            )
        return (
            np.stack([self._known[key] for key in keys]).astype(np.float32)
            if keys
            else np.zeros((0, DIMENSIONS))
        )
