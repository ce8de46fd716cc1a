"""``sparkle tasks watch``: a screen that renews itself."""

from __future__ import annotations

import json
import sys
import threading
from typing import TYPE_CHECKING

import click

from sparkle.tasks.record import TaskFilter
from sparkle.tasks.views import Overview, overview, process_row, task_row

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from sparkle.tasks.ledger import Ledger

_ROWS = 20
_QUEUES = ("queue", "waiting", "queued", "running", "oldest")
_RUNNING = ("id", "name", "user", "attempt", "took", "progress")
_PROCESSES = ("kind", "host", "pid", "up")


def watch(ledger: Ledger, where: TaskFilter, *, interval: float, until_idle: bool, as_json: bool) -> None:
    """Show how tasks get on until they are idle, somebody presses Ctrl-C, or, off a terminal, once.

    Args:
        ledger: What to watch.
        where: Which tasks.
        interval: Seconds between two looks.
        until_idle: Look on, also off a terminal, until no task is unfinished.
        as_json: Print each look as one line of JSON.
    """
    live = sys.stdout.isatty() and not as_json
    pause = threading.Event()
    try:
        if live:
            _on_terminal(ledger, where, interval, until_idle, pause)
            return
        while True:
            seen = overview(ledger, where, running=_ROWS)
            click.echo(json.dumps(seen.as_json(), ensure_ascii=False) if as_json else _line(seen))
            if not until_idle or not seen.unfinished:
                return
            pause.wait(interval)
    except KeyboardInterrupt:
        click.echo("", err=True)


def _on_terminal(
    ledger: Ledger, where: TaskFilter, interval: float, until_idle: bool, pause: threading.Event
) -> None:
    from rich.live import Live

    seen = overview(ledger, where, running=_ROWS)
    with Live(_screen(seen), auto_refresh=False) as screen:
        while not (until_idle and not seen.unfinished):
            pause.wait(interval)
            seen = overview(ledger, where, running=_ROWS)
            screen.update(_screen(seen), refresh=True)


def _line(seen: Overview) -> str:
    states = ", ".join(f"{count} {state}" for state, count in seen.states.items()) or "no tasks"
    queues = [
        f"{queue.queue}: {queue.waiting} waiting, {queue.queued} queued, {queue.running} running, "
        f"oldest {queue.oldest_seconds:.1f} s"
        for queue in seen.queues
    ]
    rows = [task_row(record, seen.at) for record in seen.running]
    running = ["\t".join(str(row[column] or "") for column in _RUNNING) for row in rows]
    return "\n".join([states, *queues, *running])


def _screen(seen: Overview) -> Group:
    from rich.console import Group
    from rich.text import Text

    states = "   ".join(f"{state} {count:,}" for state, count in seen.states.items()) or "no tasks"
    parts: list[Text | Table] = [Text(states, style="bold")]
    if seen.queues:
        rows = [
            (
                queue.queue,
                f"{queue.waiting:,}",
                f"{queue.queued:,}",
                f"{queue.running:,}",
                f"{queue.oldest_seconds:.1f} s",
            )
            for queue in seen.queues
        ]
        parts.append(_table(_QUEUES, rows))
    if seen.running:
        shown = [task_row(record, seen.at) for record in seen.running]
        parts.append(_table(_RUNNING, [tuple(str(row[c] or "") for c in _RUNNING) for row in shown]))
    alive = [process_row(owner, seen.at) for owner in seen.processes]
    if alive:
        parts.append(_table(_PROCESSES, [tuple(str(row[c] or "") for c in _PROCESSES) for row in alive]))
    return Group(*parts)


def _table(columns: tuple[str, ...], rows: list[tuple[str, ...]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD)
    for column in columns:
        # An id that is broken over lines cannot be copied.
        table.add_column(column, overflow="fold", no_wrap=column in ("id", "ID"))
    for row in rows:
        # Text, not markup: a task's note must not be read as a style.
        table.add_row(*map(Text, row))
    return table
