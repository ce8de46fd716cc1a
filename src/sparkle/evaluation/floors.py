"""Figures that must hold: a small file beside a set of rows, so that a change for the worse is noticed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
from msgspec import Meta, Struct

from sparkle.errors import DatasetError
from sparkle.evaluation.figures import MAIN_RATE, Figures, GroupFigures

Share = Annotated[float, Meta(ge=0, le=1)]


class GroupFloor(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What one group's figures must reach; what is not given is not asked."""

    recall: Share | None = None
    """Least recall at the detector's own setting."""
    false_positives: Share | None = None
    """Greatest share of harmless rows flagged."""


class Floors(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all rows together must reach, and single groups."""

    recall: Share | None = None
    false_positives: Share | None = None
    recall_at_1_percent: Share | None = None
    """Least recall where 1% of the harmless rows are flagged."""
    auc: Share | None = None
    groups: dict[str, GroupFloor] = {}


def read_floors(path: str | Path) -> Floors:
    """Read a YAML file of floors.

    Raises:
        DatasetError: it is not YAML or breaks the schema; the message names the file and the field.
        OSError: it cannot be read.
    """
    try:
        return msgspec.yaml.decode(Path(path).read_bytes(), type=Floors)
    except msgspec.ValidationError as error:
        raise DatasetError(f"{path}: {error}") from None
    except msgspec.DecodeError:
        raise DatasetError(f"{path}: not valid YAML") from None


def merged(floors: Floors, **given: float | None) -> Floors:
    """``floors`` with those ``given`` (by field name) in their place."""
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    return msgspec.structs.replace(floors, **changes)


def shortfalls(figures: Figures, floors: Floors) -> Iterator[str]:
    """A sentence for each figure that does not hold; a figure that the rows cannot give does not hold."""
    total = GroupFloor(recall=floors.recall, false_positives=floors.false_positives)
    yield from _group(figures.total, total)
    if floors.recall_at_1_percent is not None:
        main = next((entry for entry in figures.recall_at if entry.rate == MAIN_RATE), None)
        yield from _least(
            "recall at 1% false positives", main and main.recall.value, floors.recall_at_1_percent
        )
    if floors.auc is not None:
        yield from _least("auc", figures.auc, floors.auc)
    by_name = {group.name: group for group in figures.groups}
    for name, floor in floors.groups.items():
        if name in by_name:
            yield from _group(by_name[name], floor)
        else:
            yield f"{name}: there are no rows of this group"


def _group(group: GroupFigures, floor: GroupFloor) -> Iterator[str]:
    if floor.recall is not None:
        yield from _least(f"{group.name}: recall", group.recall and group.recall.value, floor.recall)
    if floor.false_positives is not None:
        found = group.false_positives
        if found is None:
            yield f"{group.name}: there are no harmless rows to tell false positives from"
        elif found.value > floor.false_positives + 1e-9:
            yield f"{group.name}: false positives are {found.value:.1%}, at most {floor.false_positives:.1%} may be"


def _least(what: str, value: float | None, least: float) -> Iterator[str]:
    if value is None:
        yield f"{what}: there are not the rows to tell it from"
    elif value < least - 1e-9:
        yield f"{what} is {value:.1%}, at least {least:.1%} must be"
