"""The labelled texts: reading the public sets, our own seeds and what generators compose, without repetitions."""

from __future__ import annotations

import hashlib
import importlib
import json
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
from msgspec import Struct

HERE = Path(__file__).parent
SEEDS = HERE / "seeds"
MAX_CHARS = 20_000
COMPOSED = 0.4
"""Share of the generated texts that is learned from."""

WRITTEN_WEIGHT = 1.5
"""What a text of our own counts against one of a public set of the same size."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled text."""

    text: str
    label: int
    """1: an attack, 0: harmless."""
    source: str
    """The set or file it comes from."""
    family: str
    """What is left out together."""
    lang: str
    weight: float = 1.0
    author: str = "public"


class Family(Struct, frozen=True, forbid_unknown_fields=True):
    """Sets of one origin."""

    sets: tuple[str, ...]
    weight: float = 1.0


class Sources(Struct, frozen=True, forbid_unknown_fields=True):
    """``sources.yaml``."""

    families: dict[str, Family]
    ordinary: tuple[str, ...]
    folds: int


def sources() -> Sources:
    """The table of sets.

    Raises:
        msgspec.ValidationError: the file does not fit.
    """
    return msgspec.yaml.decode((HERE / "sources.yaml").read_bytes(), type=Sources)


def collect(data: Path) -> list[Row]:
    """All rows, public sets first, each text once; a text with both labels is left out altogether."""
    labels: dict[str, set[int]] = {}
    rows = [*public_rows(data), *seed_rows(SEEDS), *generated_rows(SEEDS)]
    for row in rows:
        labels.setdefault(_key(row.text), set()).add(row.label)
    seen: set[str] = set()
    kept: list[Row] = []
    for row in rows:
        key = _key(row.text)
        if key and key not in seen and len(labels[key]) == 1:
            seen.add(key)
            kept.append(row)
    return kept


def public_rows(data: Path) -> Iterator[Row]:
    """Rows of the public sets in ``data``; a file that ``sources.yaml`` does not name is an error.

    Raises:
        ValueError: an unknown set.
    """
    table = sources().families
    family_of = {name: family for family, entry in table.items() for name in entry.sets}
    for file in sorted(data.glob("*.jsonl")):
        for entry in _lines(file):
            source = str(entry["source"])
            if source not in family_of:
                raise ValueError(f"{file.name}: training/sources.yaml does not name the set {source!r}")
            family = family_of[source]
            text = str(entry["text"])[:MAX_CHARS]
            yield Row(text, int(entry["label"]), source, family, language(text), table[family].weight)


def seed_rows(folder: Path) -> Iterator[Row]:
    """Rows written for this project: ``<author>/<file>.jsonl``."""
    for file in sorted(folder.glob("*/*.jsonl")):
        yield from _own(_lines(file), file.parent.name, file.stem)


def generated_rows(folder: Path) -> Iterator[Row]:
    """Rows that ``<author>/<file>.py`` composes: each has ``generate(seed) -> iterable of mappings`` like
    a seed line.
    """
    for file in sorted(folder.glob("*/*.py")):
        if file.stem == "__init__" or file.stem.startswith("_"):
            continue
        module: Any = importlib.import_module(f"training.seeds.{file.parent.name}.{file.stem}")
        if hasattr(module, "generate"):
            for row in _own(module.generate(20261123), file.parent.name, file.stem):
                # A part of what is composed says as much as all of it, and is learned faster.
                if int(_key(row.text)[:4] or "0", 16) < 0x10000 * COMPOSED:
                    yield row


def _own(entries: Iterable[Any], author: str, stem: str) -> Iterator[Row]:
    for entry in entries:
        text = str(entry["text"])[:MAX_CHARS]
        lang = str(entry.get("lang") or language(text))[:2]
        yield Row(
            text, int(entry["label"]), f"{author}/{stem}", f"{author}/{stem}", lang, WRITTEN_WEIGHT, author
        )


def language(text: str) -> str:
    """A guess good enough for balancing: by script, Latin counts as English."""
    counts = {"zh": 0, "ja": 0, "ko": 0, "ru": 0, "ar": 0, "en": 0}
    for char in text[:2_000]:
        code = ord(char)
        if 0x4E00 <= code < 0xA000:
            counts["zh"] += 2
        elif 0x3040 <= code < 0x3100:
            counts["ja"] += 5
        elif 0xAC00 <= code < 0xD7B0:
            counts["ko"] += 3
        elif 0x400 <= code < 0x530:
            counts["ru"] += 1
        elif 0x600 <= code < 0x700:
            counts["ar"] += 1
        elif char.isalpha():
            counts["en"] += 1
    return max(counts, key=lambda name: (counts[name], name))


def written(row: Row) -> bool:
    """Whether a person wrote the row, or a public set holds it: not composed by a generator."""
    return not any(name in row.source for name in ("grammar", "expand", "carriers"))


STAYS, ASIDE = -1, -2
"""Instead of a fold: learned from in every fold; learned from in none."""

SET_ASIDE = "d1"
"""The author whose texts were written without looking at the other authors', and are set aside when judging."""


def fold_of(rows: Iterable[Row], folds: int) -> dict[str, int]:
    """The fold in which each family is left out.

    Public sets: whole families, ``folds`` folds with attacks and harmless texts in each. Of our own texts those of
    :data:`SET_ASIDE` are learned from in no fold, the others in all.
    """
    sizes: dict[str, list[int]] = {}
    chosen: dict[str, int] = {}
    for row in rows:
        if row.author == "public":
            sizes.setdefault(row.family, [0, 0])[row.label] += 1
        else:
            chosen[row.family] = ASIDE if row.author == SET_ASIDE else STAYS
    load = [[0.0, 0.0] for _ in range(folds)]
    for family, (harmless, attacks) in sorted(sizes.items(), key=lambda item: (-max(item[1]), item[0])):
        best = min(
            range(folds), key=lambda f: (load[f][1] * (attacks > 0) + load[f][0] * (harmless > attacks), f)
        )
        load[best][0] += harmless
        load[best][1] += attacks
        chosen[family] = best
    return chosen


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    for line in file.read_text(encoding="utf-8").split("\n"):
        if line.strip():
            yield json.loads(line)


def _key(text: str) -> str:
    plain = " ".join(unicodedata.normalize("NFKC", text).lower().split())
    return hashlib.sha256(plain.encode("utf-8", "replace")).hexdigest() if plain else ""
