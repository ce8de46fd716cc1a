"""``python -m training.build DATA_DIR [--work DIR]``: assemble the rows and say what they are.

Writes ``rows.jsonl`` (others' sentences: never committed) and ``manifest.json`` with counts and hashes of every set.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from training.augment import augmented
from training.rows import Row, collect

WORK = Path(".training")


@dataclass(frozen=True, slots=True)
class Built:
    """The rows of a run."""

    rows: list[Row]
    """Collected rows, then those made of them."""
    carriers: list[str]
    """For every row the family that its carrier is of; empty where there is none."""
    collected: int
    """How many of the rows were not made."""


def build(data: Path) -> Built:
    """Collect and augment; the same on every machine."""
    rows = collect(data)
    made = augmented(rows)
    return Built(
        [*rows, *(row for row, _ in made)], [""] * len(rows) + [family for _, family in made], len(rows)
    )


def save(built: Built, work: Path) -> None:
    """Keep the rows for the other steps."""
    work.mkdir(parents=True, exist_ok=True)
    with (work / "rows.jsonl").open("w", encoding="utf-8", errors="surrogatepass") as out:
        for row, carrier in zip(built.rows, built.carriers, strict=True):
            out.write(json.dumps({**asdict(row), "carrier": carrier}, ensure_ascii=True) + "\n")
    (work / "manifest.json").write_text(json.dumps(manifest(built), indent=1, ensure_ascii=False) + "\n")


def load(work: Path) -> Built:
    """What :func:`save` kept.

    Raises:
        FileNotFoundError: nothing was built here.
    """
    rows: list[Row] = []
    carriers: list[str] = []
    collected = 0
    with (work / "rows.jsonl").open(encoding="utf-8") as lines:
        for line in lines:
            entry: dict[str, Any] = json.loads(line)
            carriers.append(entry.pop("carrier"))
            rows.append(Row(**entry))
    collected = int(json.loads((work / "manifest.json").read_text())["collected"])
    return Built(rows, carriers, collected)


def manifest(built: Built) -> dict[str, Any]:
    """Counts and a hash of the texts by source."""
    texts: dict[str, Any] = {}
    counts: Counter[tuple[str, int]] = Counter()
    for row in built.rows[: built.collected]:
        counts[row.source, row.label] += 1
        texts.setdefault(row.source, hashlib.sha256()).update(row.text.encode("utf-8", "replace") + b"\0")
    return {
        "collected": built.collected,
        "made": len(built.rows) - built.collected,
        "sources": {
            source: {
                "attacks": counts[source, 1],
                "harmless": counts[source, 0],
                "sha256": digest.hexdigest()[:16],
            }
            for source, digest in sorted(texts.items())
        },
    }


def main(arguments: Iterable[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, default=WORK)
    chosen = parser.parse_args(None if arguments is None else list(arguments))
    built = build(chosen.data)
    save(built, chosen.work)
    attacks = sum(row.label for row in built.rows)
    sys.stdout.write(
        f"{len(built.rows)} rows: {attacks} attacks, {len(built.rows) - attacks} harmless; "
        f"{built.collected} collected, {len(built.rows) - built.collected} made of those\n"
    )


if __name__ == "__main__":
    main()
