"""``sparkle keys``: make, list and revoke API keys."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from sparkle.server.keys import KeyStore

_COLUMNS = ("id", "user", "team", "name", "models", "state", "created", "expires")

_data_dir: Callable[[Any], Any] = click.option(
    "--data-dir", type=click.Path(file_okay=False), help="Folder of the installation. [.sparkle]"
)
_as_json: Callable[[Any], Any] = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group()
def keys() -> None:
    """Make, list and revoke API keys. A running server notices within a second."""


@keys.command()
@click.option("--user", required=True, help="Whom the key's calls are charged to.")
@click.option("--team", help="Team whose limits also apply.")
@click.option("--name", help="A note for the list.")
@click.option("--model", "models", multiple=True, help="Model it may use (glob); repeatable. [all]")
@click.option("--expires", help="When it ends: 30d, 12h, or a date such as 2027-01-31. [never]")
@_data_dir
@_as_json
def create(
    user: str,
    team: str | None,
    name: str | None,
    models: tuple[str, ...],
    expires: str | None,
    data_dir: str | None,
    as_json: bool,
) -> None:
    """Make a key and print it, the only time it can be seen."""
    from sparkle.clock import SystemClock
    from sparkle.server.key_info import parse_expiry

    ends = parse_expiry(expires, SystemClock().now()) if expires else None
    key_id, key = _store(data_dir).create(user, team=team, name=name, models=models, expires=ends)
    if as_json:
        click.echo(json.dumps({"id": key_id, "key": key}))
        return
    click.echo(key)
    click.echo(f"id {key_id}, user {user}. Keep it now: only a digest is stored.", err=True)


@keys.command("list")
@_data_dir
@_as_json
def list_keys(data_dir: str | None, as_json: bool) -> None:
    """List all keys, expired and revoked ones included."""
    from sparkle.cli_output import print_rows
    from sparkle.clock import SystemClock
    from sparkle.server.key_info import key_row

    now = SystemClock().now()
    rows = [key_row(info, now) for info in _store(data_dir).list()]
    print_rows(_COLUMNS, rows, as_json=as_json)


@keys.command()
@click.argument("key_id", metavar="ID")
@_data_dir
@_as_json
def revoke(key_id: str, data_dir: str | None, as_json: bool) -> None:
    """Refuse the key with this public ID from now on."""
    from sparkle.clock import SystemClock
    from sparkle.server.key_info import key_row

    info = _store(data_dir).revoke(key_id)
    click.echo(json.dumps(key_row(info, SystemClock().now())) if as_json else f"{info.id} is revoked")


def _store(data_dir: str | None) -> KeyStore:
    from sparkle.server.keys import KEYS_FILE, KeyStore
    from sparkle.settings import load_settings

    return KeyStore(load_settings(overrides={"data_dir": data_dir}).data_dir / KEYS_FILE)
