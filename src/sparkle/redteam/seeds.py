"""What is mutated: plain attacks and plain harmless texts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sparkle.errors import DatasetError
from sparkle.evaluation.rows import read_rows


@dataclass(frozen=True, slots=True)
class Seed:
    """One text before any mutation."""

    id: str
    text: str = field(repr=False)
    attack: bool
    role: str = "user"
    translations: Mapping[str, str] = field(default_factory=dict[str, str], repr=False)
    """Language code to the same in that language; empty where nobody translated it."""


class _SeedData(Struct, frozen=True, forbid_unknown_fields=True):
    id: Annotated[str, Meta(min_length=1)]
    attack: bool
    lang: str
    text: Annotated[str, Meta(min_length=1)]
    translations: dict[str, str] = {}


class _SeedFile(Struct, frozen=True, forbid_unknown_fields=True):
    seeds: tuple[_SeedData, ...]


def read_package_data(name: str) -> bytes:
    """The bytes of ``sparkle/redteam/data/<name>``."""
    return files("sparkle.redteam").joinpath("data", name).read_bytes()


def default_seeds() -> tuple[Seed, ...]:
    """The seeds that Sparkle ships: English and Chinese, some translated into nine further languages."""
    data = msgspec.yaml.decode(read_package_data("seeds.yaml"), type=_SeedFile)
    return tuple(Seed(row.id, row.text, row.attack, "user", row.translations) for row in data.seeds)


def read_seeds(path: str | Path) -> tuple[Seed, ...]:
    """Seeds from a file of labelled texts, as ``sparkle evaluate`` reads them.

    Raises:
        DatasetError: a line is wrong (see :func:`sparkle.evaluation.rows.read_rows`), or there is no attack.
        OSError: the file cannot be read.
    """
    seeds = tuple(
        Seed(f"{Path(row.file).name}:{row.line}", row.text, row.attack, row.role)
        for row in read_rows([path])
        if row.text.strip()
    )
    if not any(seed.attack for seed in seeds):
        raise DatasetError(f"{path}: there is no attack (label 1) to mutate")
    return seeds
