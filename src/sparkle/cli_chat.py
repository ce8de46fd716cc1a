"""``sparkle chat``."""

from __future__ import annotations

import click


@click.command()
@click.option("--url", help="A running server's base URL; none: one is started with the local model.")
@click.option("--model", help="Model name; none: the server's first.")
@click.option("--user", default="me", show_default=True, help="Whom the calls are charged to.")
@click.option("--system", help="System prompt.")
@click.option(
    "--api-key", envvar="OPENAI_API_KEY", default="not-needed-on-loopback", help="Key of the server."
)
@click.option("--max-tokens", type=int, default=256, show_default=True)
def chat(
    url: str | None, model: str | None, user: str, system: str | None, api_key: str, max_tokens: int
) -> None:
    """Chat in the terminal through the guards. Ends with an empty line, Ctrl-D or /quit."""
    from sparkle.demo.chat import ChatOptions, run

    run(ChatOptions(url=url, model=model, user=user, system=system, api_key=api_key, max_tokens=max_tokens))
