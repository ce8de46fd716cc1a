"""``sparkle demo``."""

from __future__ import annotations

import click


@click.command()
@click.option("--keep/--no-keep", default=None, help="Leave the server up at the end. [on a terminal: keep]")
def demo(keep: bool | None) -> None:
    """Start a server with the local model and walk through the story."""
    from sparkle.demo.story import main

    main(keep=keep)
