"""Tables on a terminal."""

from __future__ import annotations

import sys

from rich.console import Console
from rich.markup import escape
from rich.table import Table as RichTable

from bench.report import Table


def console() -> Console:
    """Standard output; a file or a pipe gets wide tables rather than folded ones."""
    return Console() if sys.stdout.isatty() else Console(width=180)


def show(out: Console, table: Table) -> None:
    """Print a table and its notes."""
    shown = RichTable(title=escape(table.title), title_justify="left", title_style="bold")
    for i, column in enumerate(table.columns):
        left = i == 0 or (len(table.columns) == 2 and not _numbers(table))
        shown.add_column(column, justify="left" if left else "right", overflow="fold")
    for row in table.rows:
        shown.add_row(*map(escape, row))
    out.print(shown)
    for note in table.notes:
        out.print(note, style="dim", highlight=False, markup=False)


def _numbers(table: Table) -> bool:
    return all(row[-1].replace(".", "").replace(",", "").isdigit() for row in table.rows)
