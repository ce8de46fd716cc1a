"""What a run of the benchmarks found: tables for people, figures for targets, samples for files."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from msgspec import Struct

from bench.load import Sample


@dataclass(frozen=True, slots=True)
class Table:
    """One table; every row has as many cells as there are columns."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Part:
    """One part of the benchmarks.

    Attributes:
        name: As on the command line.
        command: The command that repeats it.
        seconds: How long it took.
        tables: For people.
        figures: For the targets, by name; a figure that could not be measured is missing.
        failures: What could not be measured, and why.
        samples: The runs of the load behind the tables.
    """

    name: str
    command: str
    seconds: float
    tables: tuple[Table, ...]
    figures: dict[str, float] = field(default_factory=dict[str, float])
    failures: tuple[str, ...] = ()
    samples: tuple[Sample, ...] = ()


@dataclass(frozen=True, slots=True)
class Run:
    """Everything one command measured; what ``--json`` writes."""

    started: str
    """UTC, ISO 8601."""
    machine: dict[str, str]
    parts: tuple[Part, ...]
    version: int = 1


class Target(Struct, frozen=True, forbid_unknown_fields=True):
    """A figure to reach: at least ``least`` or at most ``most``, and the next one after it."""

    part: str
    figure: str
    says: str
    least: float | None = None
    most: float | None = None
    then: float | None = None

    def reached(self, value: float, bound: float) -> bool:
        """Whether ``value`` keeps ``bound``, one of this target's own."""
        return value <= bound if self.most is not None else value >= bound


def targets() -> list[Target]:
    """All targets, from bench/targets.yaml."""
    found = msgspec.yaml.decode(Path(__file__).with_name("targets.yaml").read_bytes(), type=list[Target])
    for target in found:
        if (target.least is None) == (target.most is None):
            raise ValueError(f"target {target.figure}: give least or most")
    return found


def judge(part: Part) -> Table | None:
    """The part's figures beside their targets; ``None`` for a part without targets."""
    rows: list[tuple[str, ...]] = []
    for target in targets():
        if target.part != part.name:
            continue
        bound = target.least if target.least is not None else target.most
        assert bound is not None, "checked by targets()"
        sign = "<=" if target.most is not None else ">="
        wanted = f"{sign} {bound:g}" + (f", then {target.then:g}" if target.then is not None else "")
        value = part.figures.get(target.figure)
        if value is None:
            rows.append((target.says, "not measured", wanted, "-"))
            continue
        outcome = "reached" if target.reached(value, bound) else "missed"
        if outcome == "reached" and target.then is not None and target.reached(value, target.then):
            outcome = "reached, the next one too"
        rows.append((target.says, number(value), wanted, outcome))
    return Table(f"Targets: {part.name}", ("what", "measured", "target", ""), tuple(rows)) if rows else None


def number(value: float) -> str:
    """Three significant digits, thousands with commas."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def spread(values: Sequence[float]) -> str:
    """``median (lowest-highest)`` of repeats; one value stands alone."""
    if not values:
        return "-"
    middle = number(statistics.median(values))
    return middle if len(values) == 1 else f"{middle} ({number(min(values))}-{number(max(values))})"


def median(values: Iterable[float]) -> float | None:
    """The median, or ``None`` of nothing."""
    listed = list(values)
    return statistics.median(listed) if listed else None
