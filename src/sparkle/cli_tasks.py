"""``sparkle tasks``: look at tasks and steer them, short and long ones alike."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import click

from sparkle.cli_tasks_options import as_json, filters, location, named_tasks

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger
    from sparkle.tasks.record import TaskFilter, TaskRecord


@click.group()
def tasks() -> None:
    """List, cancel, retry and replay background tasks, and watch them run."""


@tasks.command("list")
@filters
@click.option("--limit", type=click.IntRange(1, 1000), default=50, show_default=True, help="At most so many.")
@click.option("--cursor", help="Where the page before ended.")
@as_json
@location
def list_tasks(
    data_dir: str | None, config: str | None, limit: int, cursor: str | None, as_json: bool, **chosen: Any
) -> None:
    """List tasks, the newest first."""
    from sparkle.cli_output import print_rows
    from sparkle.tasks.views import COLUMNS, NARROW, NARROW_COLUMNS, task_row

    with _ledger(data_dir, config) as ledger:
        page = ledger.find(_filter(ledger, chosen), cursor=cursor, limit=limit)
        rows = [task_row(record, ledger.now()) for record in page.records]
    if as_json:
        click.echo(json.dumps({"tasks": rows, "next_cursor": page.next_cursor}, ensure_ascii=False, indent=2))
        return
    print_rows(NARROW_COLUMNS if _width() < NARROW else COLUMNS, rows, as_json=False)
    if page.next_cursor:
        click.echo(f"more: --cursor {page.next_cursor}", err=True)


@tasks.command()
@click.argument("task_id", metavar="ID")
@as_json
@location
def show(task_id: str, data_dir: str | None, config: str | None, as_json: bool) -> None:
    """Show everything about one task, its arguments and result included."""
    from sparkle.tasks.views import task_details

    with _ledger(data_dir, config) as ledger:
        details = task_details(ledger.get(task_id))
    if as_json:
        click.echo(json.dumps(details, ensure_ascii=False, indent=2))
        return
    width = max(map(len, details))
    for name, value in details.items():
        if value not in (None, [], {}, False):
            shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            click.echo(f"{name.replace('_', ' '):{width}}  {shown}")


@tasks.command()
@named_tasks("that wait or run")
def cancel(**chosen: Any) -> None:
    """Cancel tasks.

    One that waits is cancelled at once. A running one learns of it within seconds: an async task gets a
    CancelledError, a plain function an exception at its next step.
    """
    _steer("cancel", ("waiting", "queued", "retrying", "running"), chosen)


@tasks.command()
@named_tasks("that wait for their time")
def retry(**chosen: Any) -> None:
    """Make tasks that wait for their next attempt, or for a later time, due now."""
    _steer("retry", ("retrying",), chosen)


@tasks.command()
@named_tasks("in the dead letter")
def replay(**chosen: Any) -> None:
    """Run failed or cancelled tasks again, with all their attempts."""
    _steer("replay", ("failed",), chosen)


@tasks.command()
@filters
@click.option(
    "--interval", type=click.FloatRange(0.1, 3600), default=1.0, help="Seconds between two looks. [1]"
)
@click.option("--until-idle", is_flag=True, help="End when no task is unfinished.")
@as_json
@location
def watch(
    data_dir: str | None, config: str | None, interval: float, until_idle: bool, as_json: bool, **chosen: Any
) -> None:
    """Watch queues, running tasks and their progress. One look where the output is no terminal."""
    from sparkle.cli_tasks_watch import watch as run

    with _ledger(data_dir, config) as ledger:
        run(ledger, _filter(ledger, chosen), interval=interval, until_idle=until_idle, as_json=as_json)


@tasks.command()
@click.option("--older-than", required=True, help="Finished before: an age such as 7d, or a date.")
@click.option("--state", "states", multiple=True, help="Only these finished states; repeatable. [all]")
@as_json
@location
def purge(
    older_than: str, states: tuple[str, ...], data_dir: str | None, config: str | None, as_json: bool
) -> None:
    """Delete finished tasks, in small steps that hold nobody up. The relay does so by itself as the settings say."""
    from sparkle.tasks.states import FINISHED
    from sparkle.tasks.views import parse_since, parse_states

    deleted = 0
    with _ledger(data_dir, config) as ledger:
        before = parse_since(older_than, ledger.now(), param="--older-than")
        while count := ledger.purge(before, states=parse_states(states) or FINISHED):
            deleted += count
    click.echo(json.dumps({"deleted": deleted}) if as_json else f"{deleted} tasks deleted")


@tasks.command()
@as_json
@location
def migrate(data_dir: str | None, config: str | None, as_json: bool) -> None:
    """Create or upgrade the ledger's tables. SQLite does so by itself; run this after upgrading with PostgreSQL."""
    from sparkle.settings import load_settings
    from sparkle.tasks.maintenance import migrate_ledger

    before, after = migrate_ledger(load_settings(file=config, overrides={"data_dir": data_dir}))
    if as_json:
        click.echo(json.dumps({"before": before, "after": after}))
    elif before == after:
        click.echo(f"the ledger is at revision {after} already")
    else:
        click.echo(f"the ledger was at revision {before or 'none'} and is at {after} now")


def _width() -> float:
    """Characters in a line of the terminal; a pipe holds any number."""
    if not sys.stdout.isatty():
        return float("inf")
    from rich.console import Console

    return Console().width


def _ledger(data_dir: str | None, config: str | None) -> AbstractContextManager[Ledger]:
    from sparkle.settings import load_settings
    from sparkle.tasks.processes import open_ledger

    return open_ledger(load_settings(file=config, overrides={"data_dir": data_dir}))


def _filter(ledger: Ledger, chosen: dict[str, Any]) -> TaskFilter:
    from sparkle.tasks.record import TaskFilter
    from sparkle.tasks.states import TaskMode
    from sparkle.tasks.views import parse_since, parse_states

    now = ledger.now()
    since, until = chosen.get("since"), chosen.get("until")
    return TaskFilter(
        user_id=chosen.get("user"),
        states=parse_states(chosen.get("states") or ()),
        name=chosen.get("name"),
        queue=chosen.get("queue"),
        mode=TaskMode(chosen["mode"]) if chosen.get("mode") else None,
        created_from=parse_since(since, now, param="--since") if since else None,
        created_before=parse_since(until, now, param="--until") if until else None,
    )


def _steer(verb: str, states: tuple[str, ...], chosen: dict[str, Any]) -> None:
    """Do ``verb`` to the tasks that were named, or to all that the filters choose; exits with 1 if one refused."""
    from sparkle.tasks.views import task_row

    as_json = chosen.pop("as_json")
    ids, everything = chosen.pop("ids"), chosen.pop("everything")
    if bool(ids) == everything:
        raise click.UsageError("name the tasks by ID, or give --all and filters")
    failed = False
    rows: list[dict[str, object]] = []
    with _ledger(chosen.pop("data_dir"), chosen.pop("config")) as ledger:
        if everything:
            chosen["states"] = chosen.get("states") or states
            ids = _all_ids(ledger, _filter(ledger, chosen))
        act: Callable[[str], TaskRecord] = getattr(ledger, verb)
        for task_id in ids:
            row, error = _one(act, task_id)
            failed = failed or error is not None
            rows.append({"id": task_id, "error": error} if row is None else task_row(row, ledger.now()))
            if not as_json:
                click.echo(error or f"{task_id} is {rows[-1]['state']}", err=error is not None)
    if as_json:
        click.echo(json.dumps(rows, ensure_ascii=False, indent=2))
    elif everything:
        click.echo(f"{len(rows)} tasks")
    if failed:
        raise SystemExit(1)


def _one(act: Callable[[str], TaskRecord], task_id: str) -> tuple[TaskRecord | None, str | None]:
    from sparkle.errors import NotFoundError, TaskError

    try:
        return act(task_id), None
    except (NotFoundError, TaskError) as exc:
        return None, exc.message


def _all_ids(ledger: Ledger, where: TaskFilter) -> list[str]:
    found: list[str] = []
    cursor: str | None = None
    while True:
        page = ledger.find(where, cursor=cursor, limit=1000)
        found += [record.id for record in page.records]
        if (cursor := page.next_cursor) is None:
            return found
