"""How commands print lists: a table on a terminal, tab-separated lines in a pipe, JSON on request."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence

import click


def print_rows(columns: Sequence[str], rows: Sequence[Mapping[str, object]], *, as_json: bool) -> None:
    """Print ``rows``; ``columns`` names the keys that tables show, JSON shows all keys."""
    if as_json:
        click.echo(json.dumps(list(rows), ensure_ascii=False, indent=2))
    elif sys.stdout.isatty():
        _print_table(columns, rows)
    else:
        for row in rows:
            click.echo("\t".join(_cell(row.get(column)) for column in columns))


def _print_table(columns: Sequence[str], rows: Sequence[Mapping[str, object]]) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        # An id that is broken over lines cannot be copied.
        table.add_column(column, overflow="fold", no_wrap=column == "id")
    for row in rows:
        # Text, not markup: a value such as "[0-9]" must not be read as a style.
        table.add_row(*(Text(_cell(row.get(column))) for column in columns))
    Console().print(table)


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, list | tuple):
        return ", ".join(str(item) for item in value)  # pyright: ignore[reportUnknownVariableType, reportUnknownArgumentType]  any JSON value
    return str(value).replace("\t", " ").replace("\n", " ")
