"""``sparkle guard``: judge texts from the command line."""

from __future__ import annotations

import sys
from typing import BinaryIO, cast

import click


@click.group()
def guard() -> None:
    """Judge texts without calling a model."""


@guard.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False, allow_dash=True), default="-", help="Verdicts. [stdout]"
)
@click.option(
    "--policy", type=click.Path(exists=True, dir_okay=False), help="Policy file; none: the shipped default."
)
@click.option(
    "--role",
    type=click.Choice(["user", "tool", "retrieved"]),
    default="user",
    show_default=True,
    help="Whose text a line is that has no role of its own.",
)
def scan(file: str, output: str, policy: str | None, role: str) -> None:
    """Judge FILE.jsonl, one {"text": ..., "role"?: ...} a line.

    Writes {"action", "score", "findings", "ms"} a line, in the same order.
    """
    from sparkle.llm.policy_source import load_policy
    from sparkle.llm.safety.build import build_safety
    from sparkle.llm.safety.scan import scan_lines

    safety = build_safety(load_policy(policy).input, wait=True)
    with click.open_file(file, "rb") as reader, click.open_file(output, "wb") as writer:
        counts = scan_lines(cast("BinaryIO", reader), cast("BinaryIO", writer), safety, role=role)
    click.echo(counts.sentence(), err=True)


@guard.command()
@click.argument("text")
@click.option(
    "--policy", type=click.Path(exists=True, dir_okay=False), help="Policy file; none: the shipped default."
)
@click.option("--role", type=click.Choice(["user", "tool", "retrieved"]), default="user", show_default=True)
@click.option("--output-side", is_flag=True, help="Judge TEXT as a model's answer instead.")
def explain(text: str, policy: str | None, role: str, output_side: bool) -> None:
    """Say why TEXT is allowed, redacted or blocked ("-" reads standard input)."""
    from sparkle.llm.explain import explain_input, explain_output
    from sparkle.llm.policy_source import load_policy

    text = sys.stdin.read() if text == "-" else text
    loaded = load_policy(policy)
    if output_side:
        explain_output(text, loaded.output)
    else:
        explain_input(text, loaded.input, role)
