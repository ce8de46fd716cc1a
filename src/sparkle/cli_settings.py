"""``sparkle settings``."""

from __future__ import annotations

import click


@click.command()
@click.option("--config", type=click.Path(dir_okay=False), help="YAML file; none: what SPARKLE_CONFIG names.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def settings(config: str | None, as_json: bool) -> None:
    """List every setting: its variable, its value now (secrets masked) and its meaning."""
    from sparkle.cli_output import print_rows
    from sparkle.settings import describe, load_settings

    rows = [
        {"variable": variable, "value": value, "meaning": meaning}
        for variable, value, meaning in describe(load_settings(file=config))
    ]
    print_rows(("variable", "value", "meaning"), rows, as_json=as_json)
