"""What the learned classifier costs: loading, the fast tier by length, the deep tier where it is asked.

``python -m bench.classifier [--quick]``. CPU time of one core, the best of several rounds; the texts are those of the
gateway's benchmark, which are ordinary prompts in two languages.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.prompts import texts

Rows = list[tuple[str, str]]
_LENGTHS = (300, 2_000, 8_000)


def run(quick: bool = False) -> Rows:
    """Rows of name and figure; about thirty seconds, ten when ``quick``."""
    return [*_loading(), *_fast(quick), *_deep(quick)]


def _loading() -> Rows:
    from sparkle.llm.safety.classifier_learned import shipped_classifier

    began = time.process_time()
    shipped_classifier("off")
    return [("load the fast tier", f"{(time.process_time() - began) * 1e3:.0f} ms")]


def _made(length: int, english: bool, count: int) -> list[str]:
    parts = [text for text in texts(1_200) if text.isascii() is english]
    found: list[str] = []
    for seed in range(count):
        rng = random.Random(seed)
        text = rng.choice(parts)
        while len(text) < length:
            text += "\n" + rng.choice(parts)
        found.append(text[:length])
    return found


def _spent(work: Callable[[], object]) -> float:
    best = float("inf")
    for _ in range(3):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return best


def _fast(quick: bool) -> Rows:
    from sparkle.llm.safety.classifier_learned import shipped_classifier
    from sparkle.llm.safety.views import View

    classifier = shipped_classifier("off")
    rows: Rows = []
    for language in ("English", "Chinese"):
        for length in _LENGTHS:
            views = [
                View("text", text) for text in _made(length, language == "English", 50 if quick else 200)
            ]
            spent = sorted(_spent(lambda view=view: classifier.score(view, indirect=False)) for view in views)
            rows.append(
                (
                    f"fast tier, {language}, {length:,} characters, p50 / p95",
                    f"{spent[len(spent) // 2] * 1e6:.0f} / {spent[int(len(spent) * 0.95)] * 1e6:.0f} us",
                )
            )
    return rows


def _deep(quick: bool) -> Rows:
    from sparkle.llm.safety.classifier_deep import available
    from sparkle.llm.safety.classifier_learned import shipped_classifier
    from sparkle.llm.safety.views import View

    if not available():
        return [("deep tier", "not installed")]
    rows: Rows = []
    with TemporaryDirectory() as folder:
        began = time.process_time()
        classifier = shipped_classifier("on", folder=Path(folder), wait=True)
        rows.append(("unpack and load the deep tier, once a machine", f"{time.process_time() - began:.1f} s"))
        ordinary = [View("text", text) for text in texts(200 if quick else 1_000)]
        asked = [view for view in ordinary if classifier.wants_deep(view)]
        rows.append(("ordinary prompts that it is asked about", f"{100 * len(asked) / len(ordinary):.1f}%"))
        for length in (100, *_LENGTHS):
            views = [View("text", text) for text in _made(length, True, 20 if quick else 60)]
            spent = sorted(_spent(lambda view=view: classifier.ask_deep(view)) for view in views)
            rows.append(
                (
                    f"deep tier, where asked, {length:,} characters, p50 / p95",
                    f"{spent[len(spent) // 2] * 1e3:.1f} / {spent[int(len(spent) * 0.95)] * 1e3:.1f} ms",
                )
            )
    return rows


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    for name, figure in run(parser.parse_args().quick):
        sys.stdout.write(f"{name:<60} {figure}\n")


if __name__ == "__main__":
    main()
