"""``sparkle policy``: check a policy file and see what it amounts to."""

from __future__ import annotations

import json
import sys

import click

_COLUMNS = ("layer", "rule", "severity", "mode", "source", "reason")


@click.group()
def policy() -> None:
    """Check a policy file; show what every rule does under it."""


@policy.command()
@click.argument("file", type=click.Path(dir_okay=False))
def check(file: str) -> None:
    """Say every problem of FILE, with its line. Exit code 1 if there is one."""
    from sparkle.llm.policy_view import policy_problems

    problems = policy_problems(file)
    for problem in problems:
        click.echo(problem, err=True)
    if problems:
        sys.exit(1)
    click.echo(f"{file}: no problems")


@policy.command()
@click.argument("file", required=False, type=click.Path(dir_okay=False))
@click.option("--json", "as_json", is_flag=True, help="Print JSON, Chinese reasons included.")
@click.option(
    "--yaml", "as_yaml", is_flag=True, help="Print the shipped policy file, to start one's own from."
)
def show(file: str | None, as_json: bool, as_yaml: bool) -> None:
    """Show the mode of every rule of both layers and what set it. No FILE: the policy of the settings."""
    from sparkle.cli_output import print_rows
    from sparkle.llm.policy_file import default_policy_text, load_policy
    from sparkle.llm.policy_view import policy_rows, policy_summary
    from sparkle.settings import load_settings

    if as_yaml:
        click.echo(default_policy_text(), nl=False)
        return
    loaded = load_policy(file or load_settings().policy or None)
    rows = policy_rows(loaded)
    if as_json:
        click.echo(json.dumps({**policy_summary(loaded), "rules": rows}, ensure_ascii=False, indent=2))
        return
    print_rows(_COLUMNS, rows, as_json=False)
