"""Options that several of the ``sparkle tasks`` commands take."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

Command = Callable[..., Any]


def _all(*options: Callable[[Command], Command]) -> Callable[[Command], Command]:
    def add(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return add


as_json: Callable[[Command], Command] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")
location = _all(
    click.option(
        "--data-dir", type=click.Path(file_okay=False), help="Folder of the installation. [.sparkle]"
    ),
    click.option("--config", type=click.Path(dir_okay=False), help="YAML file with any setting."),
)
filters = _all(
    click.option("--state", "states", multiple=True, help="In these states; repeatable, or with commas."),
    click.option("--name", help="With this task name."),
    click.option("--user", help="For this user."),
    click.option("--mode", type=click.Choice(["short", "long"]), help="In-process or scheduled tasks."),
    click.option("--queue", help="In this queue."),
    click.option("--since", help="Created since: an age such as 15m, 2h or 7d, or a time."),
    click.option("--until", help="Created before: an age or a time."),
)


def named_tasks(which: str) -> Callable[[Command], Command]:
    """Ids, or ``--all`` with filters; by default those ``which``."""
    return _all(
        click.argument("ids", metavar="[ID]...", nargs=-1),
        click.option("--all", "everything", is_flag=True, help=f"All tasks {which} and match the filters."),
        filters,
        as_json,
        location,
    )
