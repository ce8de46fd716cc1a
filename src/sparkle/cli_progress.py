"""How long commands show that they are getting on: on stderr, and only to a person."""

from __future__ import annotations

import sys
from collections.abc import Callable

import click


def progress_on_stderr(what: str) -> Callable[[int, int], None] | None:
    """A callback told (done, all) that keeps one line up to date; ``None`` where stderr is no terminal."""
    if not sys.stderr.isatty():
        return None
    shown = -1

    def show(done: int, total: int) -> None:
        nonlocal shown
        percent = done * 100 // max(total, 1)
        if percent != shown:
            shown = percent
            click.echo(f"\r{done:,} of {total:,} {what} ({percent}%)", err=True, nl=done == total)

    return show
