"""``sparkle``: a thin door. Every command loads only what it needs."""

from __future__ import annotations

import sys
from importlib import import_module
from typing import Any

import click

from sparkle.errors import SparkleError

_COMMANDS = {
    "serve": "sparkle.cli_serve:serve",
    "chat": "sparkle.cli_chat:chat",
    "demo": "sparkle.cli_demo:demo",
    "guard": "sparkle.cli_guard:guard",
    "evaluate": "sparkle.cli_evaluate:evaluate",
    "redteam": "sparkle.cli_redteam:redteam",
    "policy": "sparkle.cli_policy:policy",
    "keys": "sparkle.cli_keys:keys",
    "tasks": "sparkle.cli_tasks:tasks",
    "worker": "sparkle.cli_worker:worker",
    "relay": "sparkle.cli_worker:relay",
    "beat": "sparkle.cli_worker:beat",
    "broker": "sparkle.cli_worker:broker",
    "doctor": "sparkle.cli_doctor:doctor",
    "settings": "sparkle.cli_settings:settings",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        target = _COMMANDS.get(cmd_name)
        if target is None:
            return None
        module, _, name = target.partition(":")
        return getattr(import_module(module), name)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SparkleError as exc:
            raise click.ClickException(exc.message) from exc
        except BrokenPipeError:
            raise  # `sparkle ... | head`: nobody wants the rest; click ends without a word
        except OSError as exc:
            # A folder that cannot be written, a file that is none: the system's own words and the path say enough.
            where = f": {exc.filename}" if exc.filename else ""
            raise click.ClickException(f"{exc.strerror or exc}{where}") from exc


@click.command(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="sparkle-llm", prog_name="sparkle")
def main() -> None:
    """Sparkle: the backend an LLM product stands on."""


if __name__ == "__main__":
    sys.exit(main())
