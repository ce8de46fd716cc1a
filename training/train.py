"""``python -m training.train [--work DIR] [--out DIR]``: fit both tiers, judge left-out families, write the weights.

Deterministic for the same rows and library versions; one thread.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

WORK = Path(".training")
OUT = Path("src/sparkle/llm/safety/data/model")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--out", type=Path, default=OUT)
    parser.add_argument(
        "--no-left-out", action="store_true", help="only fit; keep the figures of the last run"
    )
    chosen = parser.parse_args()
    # Before numpy is imported: more threads would change the order of sums, and so the last bits.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    import numpy as np

    from training import build, export, model, rows

    began = time.monotonic()

    def say(what: str) -> None:
        sys.stdout.write(f"{time.monotonic() - began:6.0f} s  {what}\n")
        sys.stdout.flush()

    built = build.load(chosen.work)
    material = model.prepare(built.rows, chosen.work)
    say(
        f"{len(built.rows)} rows, {len(material.windows.owner)} windows, {len(material.segments.owner)} segments"
    )
    if not chosen.no_left_out:
        folds = rows.sources().folds
        collected = built.rows[: built.collected]
        family_fold = rows.fold_of(collected, folds)
        # What was made of two families is learned from only if neither is left out.
        own = np.array([family_fold[row.family] for row in built.rows])
        carrier = np.array([family_fold.get(name, rows.STAYS) for name in built.carriers])
        real = np.arange(len(own)) < built.collected
        fast, deep = model.left_out_logits(material, own, carrier, say)
        np.savez(chosen.work / "left_out.npz", fast=fast[real], deep=deep[real], fold=own[real])
        carried = np.array([bool(name) for name in built.carriers])
        fast, deep = model.left_out_rows(material, own == rows.ASIDE, real, carried)
        np.savez(chosen.work / "left_out_rows.npz", fast=fast[real], deep=deep[real])
        say("left out a fifth of the rows of every public set")
    tiers = model.train(material, np.ones(len(built.rows), bool), heads=model.HEADS)
    say("fitted on all rows")
    export.write(chosen.out, "fast.bin", export.fast_file(tiers.fast, material.words.keys))
    export.write(chosen.out, "deep.bin", export.deep_file(tiers.heads))
    fast, deep = tiers.logits(material)
    np.savez(chosen.work / "fitted.npz", fast=fast[: built.collected], deep=deep[: built.collected])
    say("written")


if __name__ == "__main__":
    main()
