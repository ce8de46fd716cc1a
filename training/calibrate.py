"""``python -m training.calibrate [--work DIR] [--out DIR]``: thresholds from families that the tiers never saw.

A preset's threshold is the lowest at which the upper end of the 95% interval of the false-positive rate over left-out
harmless texts stays within the preset's limit. Generated texts are left out of this: they resemble each other.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from sklearn.linear_model import LogisticRegression

from sparkle.llm.safety.classifier_learned import Calibration, Stage, Thresholds
from training.build import load
from training.rows import Row, sources, written
from training.train import OUT, WORK
from training.windows import ASK_BYTES, Array

LIMITS = {"strict": 0.05, "balanced": 0.02, "permissive": 0.005}
"""Largest share of harmless texts that a preset may flag."""

ASKED = 0.08
"""Share of ordinary prompts (chat, study, instructions) that the deep tier may be asked about."""

_DOCUMENTS = ("docs", "pydoc", "bipia", "d2l", "react", "presidio")
_Z = 1.645
_APART = 0.2


@dataclass(frozen=True, slots=True)
class LeftOut:
    """Rows with the logits of tiers that never saw their family."""

    rows: Sequence[Row]
    fast: Array
    deep: Array

    def where(self, keep: Array) -> LeftOut:
        """The rows where ``keep`` is true."""
        return LeftOut(
            [row for row, kept in zip(self.rows, keep, strict=True) if kept], self.fast[keep], self.deep[keep]
        )

    @property
    def labels(self) -> Array:
        """1: attack."""
        return np.array([row.label for row in self.rows])

    @property
    def families(self) -> Array:
        """Names of the families."""
        return np.array([row.family for row in self.rows])


def left_out(work: Path, file: str = "left_out.npz") -> LeftOut:
    """What ``training.train`` kept: of families left out, or (``left_out_rows.npz``) of rows."""
    built = load(work)
    with np.load(work / file) as kept:
        data = LeftOut(built.rows[: built.collected], kept["fast"], kept["deep"])
    return data.where(~np.isnan(data.fast))


def upper(hits: int, total: int) -> float:
    """Upper end of the one-sided 95% Wilson interval of a share."""
    if total == 0:
        return 1.0
    share, z2 = hits / total, _Z * _Z
    middle = share + z2 / (2 * total)
    return float(
        (middle + _Z * np.sqrt(share * (1 - share) / total + z2 / (4 * total * total))) / (1 + z2 / total)
    )


def threshold(harmless: Array, limit: float) -> float:
    """The lowest threshold at which at most ``limit`` of all such texts are flagged, by the interval's upper end."""
    ordered = np.sort(harmless)[::-1]
    best = float(ordered[0]) + 0.5
    for hits, value in enumerate(ordered):
        if upper(hits + 1, len(ordered)) > limit:
            return best
        best = float(value)
    return best


def thresholds(harmless: Array) -> Thresholds:
    """All presets' thresholds over logits of harmless texts."""
    found = {name: threshold(harmless, limit) for name, limit in LIMITS.items()}
    # Few texts of a kind may put two presets on one text.
    found["strict"] = min(found["strict"], found["balanced"] - _APART)
    found["permissive"] = max(found["permissive"], found["balanced"] + _APART)
    return Thresholds(**found)


def calibrate(data: LeftOut) -> Calibration:
    """Weights, thresholds and when to ask the deep tier."""
    kept = data.where(np.array([written(row) and row.weight > 0 for row in data.rows]))
    labels, families = kept.labels, kept.families
    weights = np.array([row.weight for row in kept.rows])
    for label in (0, 1):
        weights[labels == label] /= weights[labels == label].sum()
    weights *= len(weights)
    model: Any = LogisticRegression(C=1e3)
    mixed: Any = model.fit(np.stack((kept.fast, kept.deep), 1), labels, sample_weight=weights)
    w_fast, w_deep = (float(value) for value in mixed.coef_[0])
    offset = float(mixed.intercept_[0])
    both = w_fast * kept.fast + w_deep * kept.deep + offset
    harmless = labels == 0
    ordinary = harmless & np.isin(families, sources().ordinary)
    ask_from = float(np.quantile(kept.fast[ordinary], 1 - ASKED))
    # What is not asked keeps the fast tier's low score; for the thresholds it is as low as can be.
    gated = np.where(kept.fast >= ask_from, both, both.min() - 1)
    documents = harmless & np.isin(families, _DOCUMENTS)
    return Calibration(
        fast=Stage(thresholds(kept.fast[harmless]), thresholds(kept.fast[documents])),
        both=Stage(thresholds(gated[harmless]), thresholds(gated[documents])),
        weight_fast=w_fast,
        weight_deep=w_deep,
        offset=offset,
        ask_from=ask_from,
        ask_bytes=ASK_BYTES,
    )


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=OUT)
    chosen = parser.parse_args()
    made = calibrate(left_out(chosen.work))
    tree: dict[str, Any] = msgspec.to_builtins(made)
    text = json.dumps(_rounded(tree), indent=1) + "\n"
    (chosen.out / "calibration.json").write_text(text)
    sys.stdout.write(text)


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}  # pyright: ignore[reportUnknownVariableType] - JSON
    return round(value, 4) if isinstance(value, float) else value


if __name__ == "__main__":
    main()
