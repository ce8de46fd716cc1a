"""The report of the answers' red team. Names kinds, never values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from sparkle.redteam.outputs import OutputOutcome

_NAMED = 4


def outputs_json(outcomes: Sequence[OutputOutcome], missed: Sequence[str]) -> dict[str, Any]:
    """The outcomes as plain data."""
    return {
        "plainly_missed": list(missed),
        "evasions": [
            {
                "name": o.evasion.name,
                "family": o.evasion.family,
                "about": o.evasion.about,
                "values": o.values,
                "stopped": None
                if o.stopped is None
                else {"value": o.stopped.value, "low": o.stopped.low, "high": o.stopped.high},
                "leaked": list(o.leaked),
                "harmless": o.harmless,
                "changed": list(o.changed),
            }
            for o in outcomes
        ],
    }


def print_outputs(console: Console, outcomes: Sequence[OutputOutcome], missed: Sequence[str]) -> None:
    """Print the table of all evasions."""
    if missed:
        console.print(f"not stopped when written plainly, and left out: {', '.join(missed)}")
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("family", "evasion", "values", "stopped", "95%", "harmless changed", "leaked"):
        left = name in ("family", "evasion", "leaked")
        table.add_column(name, justify="left" if left else "right", no_wrap=name != "leaked")
    family = ""
    for outcome in outcomes:
        shown = "" if outcome.evasion.family == family else outcome.evasion.family
        family = outcome.evasion.family
        stopped = outcome.stopped
        kinds = list(dict.fromkeys(outcome.leaked))
        table.add_row(
            shown,
            outcome.evasion.name,
            str(outcome.values or "–"),
            "–" if stopped is None else f"{stopped.value:.0%}",
            "–" if stopped is None else f"{stopped.low * 100:.0f}–{stopped.high * 100:.0f}",
            f"{len(outcome.changed)}/{outcome.harmless}",
            ", ".join(kinds[:_NAMED]) + (" …" if len(kinds) > _NAMED else ""),
        )
    console.print(table)
    values = sum(outcome.values for outcome in outcomes)
    leaked = sum(len(outcome.leaked) for outcome in outcomes)
    console.print(
        f"{values - leaked:,} of {values:,} values stopped ({(values - leaked) / max(values, 1):.1%})"
    )
