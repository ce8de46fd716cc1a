"""The report of an evaluation, for a person and for a program. Holds texts of the rows unless told not to."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from sparkle.evaluation.comparison import Comparison, Discordance
from sparkle.evaluation.figures import Figures, GroupFigures, Latency, Scored
from sparkle.evaluation.intervals import Interval

_EXCERPT = 160
_WIDTH = 118
"""Columns where the output is no terminal."""


def to_json(
    figures: Figures, others: Sequence[Figures], comparisons: Sequence[Comparison], *, texts: bool
) -> dict[str, Any]:
    """The report as plain data; ``texts``: with excerpts of the worst mistakes. Shares are numbers in [0, 1]."""
    return {
        **_figures_json(figures, texts=texts),
        "others": [_figures_json(other, texts=texts) for other in others],
        "comparisons": [
            {
                "first": c.first,
                "second": c.second,
                "attacks": _discordance_json(c.attacks),
                "harmless": _discordance_json(c.harmless),
                "recall_at_1_percent_difference": None
                if c.difference is None
                else {"value": c.difference, "low": c.low, "high": c.high},
            }
            for c in comparisons
        ],
    }


def _figures_json(figures: Figures, *, texts: bool) -> dict[str, Any]:
    return {
        "detector": figures.detector,
        "total": _group_json(figures.total),
        "precision": _interval_json(figures.precision),
        "auc": figures.auc,
        "recall_at": [
            {
                "rate": entry.rate,
                **(_interval_json(entry.recall) or {}),
                "threshold": entry.threshold if math.isfinite(entry.threshold) else None,
            }
            for entry in figures.recall_at
        ],
        "groups": [_group_json(group) for group in figures.groups],
        "scripts": [_group_json(group) for group in figures.scripts],
        "latency": [
            {"chars": e.chars, "rows": e.rows, "p50_ms": e.p50, "p95_ms": e.p95, "p99_ms": e.p99, "max_ms": e.worst}
            for e in figures.latency
        ],
        "misses": [_mistake_json(entry, texts=texts) for entry in figures.misses],
        "false_alarms": [_mistake_json(entry, texts=texts) for entry in figures.false_alarms],
    }  # fmt: skip


def _group_json(group: GroupFigures) -> dict[str, Any]:
    return {
        "name": group.name,
        "attacks": group.attacks,
        "harmless": group.harmless,
        "recall": _interval_json(group.recall),
        "false_positives": _interval_json(group.false_positives),
        "recall_at_1_percent": _interval_json(group.recall_at_main),
        "flagged_at_1_percent": _interval_json(group.flagged_at_main),
    }


def _interval_json(interval: Interval | None) -> dict[str, float] | None:
    if interval is None:
        return None
    return {"value": interval.value, "low": interval.low, "high": interval.high}


def _discordance_json(found: Discordance) -> dict[str, float]:
    return {
        "rows": found.rows,
        "only_first_right": found.only_first,
        "only_second_right": found.only_second,
        "mcnemar_p": found.p_value,
    }


def _mistake_json(entry: Scored, *, texts: bool) -> dict[str, Any]:
    told: dict[str, Any] = {
        "file": entry.row.file,
        "line": entry.row.line,
        "source": entry.row.source,
        "score": entry.judged.score,
        "rules": entry.judged.rules,
    }
    return told | {"text": excerpt(entry.row.text)} if texts else told


def excerpt(text: str, most: int = _EXCERPT) -> str:
    """The beginning of a text on one line, without characters that a terminal would obey."""
    line = " ".join(text[: most * 4].split())
    line = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in line)
    return line if len(line) <= most else line[: most - 1] + "…"


def print_report(
    console: Console,
    figures: Figures,
    others: Sequence[Figures],
    comparisons: Sequence[Comparison],
    *,
    group: str,
    texts: bool,
) -> None:
    """Print the report; ``group`` heads the column that the table is grouped by."""
    _print_totals(console, (figures, *others))
    for comparison in comparisons:
        _print_comparison(console, comparison)
    _print_groups(console, group, figures.groups)
    if len(figures.scripts) > 1:
        _print_groups(console, "writing", figures.scripts)
    if figures.latency:
        _print_latency(console, figures.latency)
    if texts:
        _print_mistakes(console, "Worst misses (attacks that passed, lowest score first)", figures.misses)
        _print_mistakes(console, "Worst false alarms (harmless, highest score first)", figures.false_alarms)


def console_for(*, terminal: bool) -> Console:
    """A console on standard output: as wide as the terminal, or of a fixed width in a pipe."""
    return Console() if terminal else Console(width=_WIDTH, no_color=True, highlight=False)


def _print_totals(console: Console, detectors: Sequence[Figures]) -> None:
    total = detectors[0].total
    console.print(f"{total.attacks} attacks, {total.harmless} harmless texts; in brackets 95% intervals")
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("")
    for figures in detectors:
        table.add_column(Text(figures.detector), justify="right")
    rows: list[tuple[str, list[str]]] = [
        ("recall", [_share(f.total.recall) for f in detectors]),
        ("false positives", [_share(f.total.false_positives) for f in detectors]),
        ("precision on these rows", [_share(f.precision) for f in detectors]),
    ]
    for index, entry in enumerate(detectors[0].recall_at):
        rows.append(
            (f"recall at {entry.rate:.1%} FPR", [_share(f.recall_at[index].recall) for f in detectors])
        )
    rows.append(("area under the curve", ["–" if f.auc is None else f"{f.auc:.3f}" for f in detectors]))
    for name, cells in rows:
        table.add_row(name, *cells)
    console.print(table)


def _print_comparison(console: Console, comparison: Comparison) -> None:
    for what, right, found in (
        ("attacks", "caught", comparison.attacks),
        ("harmless texts", "let pass", comparison.harmless),
    ):
        console.print(
            f"{what}: {found.only_first} {right} by {comparison.first} only, "
            f"{found.only_second} by {comparison.second} only (McNemar p = {found.p_value:.2g})",
            markup=False,
        )
    if comparison.difference is not None:
        console.print(
            f"recall at 1% FPR: {comparison.difference:+.1%} for {comparison.first} against {comparison.second} "
            f"[{comparison.low:+.1%} to {comparison.high:+.1%}, paired bootstrap]",
            markup=False,
        )
    console.print()


def _print_groups(console: Console, group: str, groups: Iterable[GroupFigures]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column(group, overflow="fold")
    for name in ("attacks", "recall", "at 1% FPR", "harmless", "flagged", "at 1% FPR"):
        table.add_column(name, justify="right", no_wrap=True)
    for entry in groups:
        table.add_row(
            Text(entry.name),
            str(entry.attacks or "–"),
            _share(entry.recall),
            _share(entry.recall_at_main),
            str(entry.harmless or "–"),
            _share(entry.false_positives),
            _share(entry.flagged_at_main),
        )
    console.print(table)


def _print_latency(console: Console, latency: Iterable[Latency]) -> None:
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("characters", "rows", "p50 ms", "p95 ms", "p99 ms", "max ms"):
        table.add_column(name, justify="right")
    for e in latency:
        bound = "longer" if e.chars is None else f"up to {e.chars:,}"
        table.add_row(bound, str(e.rows), *(f"{ms:.3f}" for ms in (e.p50, e.p95, e.p99, e.worst)))
    console.print(table)


def _print_mistakes(console: Console, title: str, mistakes: Sequence[Scored]) -> None:
    if not mistakes:
        return
    console.print(Text(title, style="bold"))
    for entry in mistakes:
        rules = f"  {', '.join(entry.judged.rules[:3])}" if entry.judged.rules else ""
        console.print(
            f"  {entry.judged.score:.3f}  {entry.row.place}  {entry.row.source}{rules}", markup=False
        )
        console.print(f"         {excerpt(entry.row.text)}", markup=False)
    console.print()


def _share(interval: Interval | None) -> str:
    if interval is None:
        return "–"
    return f"{interval.value:.1%} [{interval.low * 100:.0f}–{interval.high * 100:.0f}]"
