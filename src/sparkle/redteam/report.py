"""The red team's report, for a person and for a program. Names seeds, never quotes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparkle.evaluation.intervals import Interval
from sparkle.redteam.campaign import Campaign, Outcome
from sparkle.redteam.catalogue import Named

_NAMED = 3
"""Missed seeds named for a person; JSON has them all."""


def to_json(campaign: Campaign, drop: float) -> dict[str, Any]:
    """The campaign as plain data; ``drop``: evasions in which recall fell by more are listed apart."""
    return {
        "detector": campaign.detector,
        "attacks": campaign.attacks,
        "plainly_found": list(campaign.plainly_found),
        "plainly_missed": list(campaign.plainly_missed),
        "harmless": campaign.harmless,
        "plainly_flagged": list(campaign.plainly_flagged),
        "evasions": [_outcome_json(outcome) for outcome in campaign.outcomes],
        "beyond_drop": {"drop": drop, "names": [o.evasion.name for o in campaign.worst(drop)]},
    }


def _outcome_json(outcome: Outcome) -> dict[str, Any]:
    return {
        "name": outcome.evasion.name,
        "family": outcome.evasion.family,
        "about": outcome.evasion.about,
        "attacks": outcome.attacks,
        "found": outcome.found,
        "recall": _interval(outcome.recall),
        "drop": outcome.drop,
        "missed": list(outcome.missed),
        "harmless": outcome.harmless,
        "false_positives": _interval(outcome.false_positives),
        "flagged": list(outcome.flagged),
    }


def _interval(interval: Interval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def print_campaign(console: Console, campaign: Campaign, drop: float) -> None:
    """Print the table of all evasions, then those in which recall fell by more than ``drop``."""
    console.print(
        f"{len(campaign.plainly_found)} of {campaign.attacks} attacks are found when written plainly and were mutated; "
        f"{len(campaign.plainly_flagged)} of {campaign.harmless} harmless texts are flagged plainly and were left out",
        soft_wrap=True,
    )
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("family", "evasion", "attacks", "recall", "95%", "drop", "harmless", "flagged"):
        table.add_column(name, justify="left" if name in ("family", "evasion") else "right", no_wrap=True)
    family = ""
    for outcome in campaign.outcomes:
        shown = "" if outcome.evasion.family == family else outcome.evasion.family
        family = outcome.evasion.family
        table.add_row(shown, *_cells(outcome))
    console.print(table)
    worst = campaign.worst(drop)
    applied = sum(outcome.attacks > 0 for outcome in campaign.outcomes)
    mutated = sum(outcome.attacks for outcome in campaign.outcomes)
    found = sum(outcome.found for outcome in campaign.outcomes)
    harmless = sum(outcome.harmless for outcome in campaign.outcomes)
    flagged = sum(len(outcome.flagged) for outcome in campaign.outcomes)
    console.print(
        f"{applied} evasions: {_percent(found, mutated)} of {mutated:,} mutated attacks found, "
        f"{_percent(flagged, harmless)} of {harmless:,} mutated harmless texts flagged",
    )
    console.print(f"{len(worst)} lower recall by more than {drop * 100:g} points")
    for outcome in worst:
        seeds = list(dict.fromkeys(outcome.missed))
        named = ", ".join(seeds[:_NAMED]) + (" …" if len(seeds) > _NAMED else "")
        line = (
            f"  -{(outcome.drop or 0) * 100:.0f}  {outcome.evasion.name} ({outcome.evasion.about}): {named}"
        )
        console.print(Text(line), soft_wrap=True)


def print_list(console: Console, evasions: Sequence[Named]) -> None:
    """Print what there is to choose from."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("family", "evasion", "what it does"):
        table.add_column(name)
    for evasion in evasions:
        table.add_row(evasion.family, evasion.name, Text(evasion.about))
    console.print(table)


def _cells(outcome: Outcome) -> list[str]:
    recall, flagged = outcome.recall, outcome.false_positives
    return [
        outcome.evasion.name,
        str(outcome.attacks or "–"),
        "–" if recall is None else f"{recall.value:.0%}",
        "–" if recall is None else f"{recall.low * 100:.0f}–{recall.high * 100:.0f}",
        "–" if outcome.drop is None else f"{outcome.drop * 100:.0f}",
        str(outcome.harmless or "–"),
        "–" if flagged is None else f"{flagged.value:.0%}",
    ]


def _percent(part: int, total: int) -> str:
    return f"{part / total:.1%}" if total else "none"
