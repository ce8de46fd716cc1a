"""Writing the shipped files: int8 weights of the fast tier, float16 of the deep one."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sparkle.llm.safety.classifier_file import SectionType, pack_model
from training.fit import DeepFit, FastFit
from training.windows import Array

_SEEN_ONLY = 0.004
"""Vectors that add less than this to any logit are left out."""


def fast_file(fit: FastFit, keys: Array) -> bytes:
    """``fast.bin``; weights are rounded to 1/127 of a scale that clips one in 100,000."""
    used = np.abs(fit.ngrams[fit.ngrams != 0])
    ngram_scale = float(np.quantile(used, 0.9999)) / 127 if len(used) else 1.0
    vectors = fit.vectors()
    vector_scale = float(np.quantile(np.abs(vectors), 0.9999)) / 127
    small = _int8(vectors, vector_scale)
    kept = np.abs(vectors @ np.diag(np.abs(fit.output))).sum(axis=1) > _SEEN_ONLY
    sections: dict[str, tuple[SectionType, tuple[int, ...], bytes]] = {
        "ngrams": ("b", (len(fit.ngrams),), _int8(fit.ngrams, ngram_scale).tobytes()),
        "keys": ("I", (int(kept.sum()),), keys[kept].astype("<u4").tobytes()),
        "vectors": ("b", (int(kept.sum()), small.shape[1]), small[kept].tobytes()),
        "hidden_bias": _floats(fit.hidden_bias),
        "output": _floats(fit.output),
    }
    meta = {"ngram_scale": ngram_scale, "vector_scale": vector_scale, "bias": float(fit.bias[0])}
    return pack_model(sections, meta)


def deep_file(heads: Sequence[DeepFit]) -> bytes:
    """``deep.bin``: the heads side by side, so that one product computes their mean."""
    inner = np.concatenate([head.inner for head in heads], axis=1).astype("<f2")
    sections: dict[str, tuple[SectionType, tuple[int, ...], bytes]] = {
        "inner": ("e", (inner.shape[0], inner.shape[1]), inner.tobytes()),
        "inner_bias": _floats(np.concatenate([head.inner_bias for head in heads])),
        "outer": _floats(np.concatenate([head.outer for head in heads]) / len(heads)),
    }
    return pack_model(sections, {"outer_bias": float(np.mean([head.outer_bias[0] for head in heads]))})


def write(folder: Path, name: str, data: bytes) -> None:
    """Write a file whole."""
    folder.mkdir(parents=True, exist_ok=True)
    made = folder / f".{name}"
    made.write_bytes(data)
    made.replace(folder / name)


def _int8(values: Array, scale: float) -> Array:
    return np.clip(np.rint(values / scale), -127, 127).astype(np.int8)


def _floats(values: Array) -> tuple[SectionType, tuple[int, ...], bytes]:
    return "f", (len(values),), values.astype("<f4").tobytes()
