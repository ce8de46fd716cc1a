"""``sparkle redteam``: what a detector still finds when attacks are written in other ways."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from sparkle.evaluation.detector import Detector

_FILE = click.Path(exists=True, dir_okay=False)


@click.command()
@click.option(
    "--seeds", type=_FILE, metavar="FILE.jsonl", help="Labelled texts to mutate; none: Sparkle's own."
)
@click.option(
    "--evasion", "names", multiple=True, metavar="NAME", help="Name, glob or family; repeatable. [all]"
)
@click.option(
    "--target", default="guard", show_default=True, metavar="guard|URL", help="A running Sparkle's URL."
)
@click.option("--api-key", envvar="OPENAI_API_KEY", help="Key of the running Sparkle.")
@click.option("--policy", type=_FILE, help="Policy file; none: the shipped default.")
@click.option("--preset", help="Preset of the classifier: strict, balanced or permissive. [the policy's]")
@click.option("--output", "output_side", is_flag=True, help="Attack the redaction of answers instead.")
@click.option(
    "--variants", type=click.IntRange(1, 100), default=1, show_default=True, help="Mutations of each seed."
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of all chance.")
@click.option(
    "--max-drop",
    type=click.FloatRange(0, 100),
    default=5.0,
    show_default=True,
    help="Points of recall that an evasion may cost before it is listed.",
)
@click.option("--check", is_flag=True, help="Exit 1 if an evasion costs more than that.")
@click.option("--list", "listed", is_flag=True, help="List the evasions and end.")
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def redteam(
    seeds: str | None,
    names: tuple[str, ...],
    target: str,
    api_key: str | None,
    policy: str | None,
    preset: str | None,
    output_side: bool,
    variants: int,
    seed: int,
    max_drop: float,
    check: bool,
    listed: bool,
    as_json: bool,
) -> None:
    """Attack the guard with every evasion and tell what still finds its way.

    Seeds that are found when written plainly are mutated; the report tells for each evasion the share still found, and
    how many harmless seeds are flagged when written the same way. Everything is repeatable by its seed.
    """
    from sparkle.cli_progress import progress_on_stderr
    from sparkle.evaluation.report import console_for
    from sparkle.redteam.campaign import run_campaign
    from sparkle.redteam.catalogue import catalogue, choose
    from sparkle.redteam.report import print_campaign, print_list, to_json
    from sparkle.redteam.seeds import default_seeds, read_seeds

    console = console_for(terminal=sys.stdout.isatty())
    if output_side and (seeds or target != "guard" or preset):
        raise click.UsageError("--output brings its own secrets and asks the guard in this process")
    if target != "guard" and (policy or preset):
        raise click.UsageError("a running Sparkle has its own policy: give --target or --policy/--preset")
    if output_side:
        _outputs(names, policy, seed=seed, variants=variants, listed=listed, as_json=as_json)
        return
    evasions = choose(names, catalogue())
    if listed:
        print_list(console, evasions)
        return
    with ExitStack() as stack:
        detector = _detector(stack, target, api_key, policy, preset)
        campaign = run_campaign(
            read_seeds(seeds) if seeds else default_seeds(),
            evasions,
            detector,
            seed=seed,
            variants=variants,
            progress=progress_on_stderr("evasions"),
        )
    if as_json:
        click.echo(json.dumps(to_json(campaign, max_drop / 100), ensure_ascii=False, indent=2))
    else:
        print_campaign(console, campaign, max_drop / 100)
    sys.exit(1 if check and campaign.worst(max_drop / 100) else 0)


def _outputs(
    names: tuple[str, ...], policy: str | None, *, seed: int, variants: int, listed: bool, as_json: bool
) -> None:
    from sparkle.evaluation.report import console_for
    from sparkle.llm.output import OutputValidator
    from sparkle.llm.policy_file import load_policy
    from sparkle.redteam.catalogue import choose
    from sparkle.redteam.output_report import outputs_json, print_outputs
    from sparkle.redteam.outputs import EVASIONS, run_outputs
    from sparkle.redteam.report import print_list

    console = console_for(terminal=sys.stdout.isatty())
    evasions = choose(names, EVASIONS)
    if listed:
        print_list(console, evasions)
        return
    validator = OutputValidator(load_policy(policy).output)
    outcomes, missed = run_outputs(validator, evasions, seed=seed, variants=variants)
    if as_json:
        click.echo(json.dumps(outputs_json(outcomes, missed), ensure_ascii=False, indent=2))
    else:
        print_outputs(console, outcomes, missed)


def _detector(
    stack: ExitStack, target: str, api_key: str | None, policy: str | None, preset: str | None
) -> Detector:
    from sparkle.evaluation.detector import RemoteDetector, open_guard

    if target == "guard":
        return open_guard(policy, preset)
    remote = RemoteDetector(target, api_key)
    stack.callback(remote.close)
    return remote
