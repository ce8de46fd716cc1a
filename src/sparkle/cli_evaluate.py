"""``sparkle evaluate``: figures of a detector on labelled texts."""

from __future__ import annotations

import json
import sys
from contextlib import ExitStack
from typing import TYPE_CHECKING, BinaryIO, cast

import click

if TYPE_CHECKING:
    from sparkle.evaluation.detector import Detector

_FILE = click.Path(exists=True, dir_okay=False)
_SHARE = click.FloatRange(0, 1)


@click.command()
@click.argument("files", nargs=-1, required=True, type=_FILE, metavar="FILE.jsonl...")
@click.option(
    "--compare", "compared", type=_FILE, multiple=True, metavar="SCORES.jsonl",
    help="Another detector's scores of the same rows, in order; repeatable.",
)  # fmt: skip
@click.option(
    "--output", "-o", type=click.Path(dir_okay=False), help="Write the scores, one JSON object a row."
)
@click.option("--policy", type=_FILE, help="Policy file; none: the shipped default.")
@click.option("--preset", help="Preset of the classifier: strict, balanced or permissive. [the policy's]")
@click.option("--target", metavar="URL", help="Ask a running Sparkle instead of the guard in this process.")
@click.option(
    "--api-key", envvar="OPENAI_API_KEY", help="Key of the running Sparkle. [environment: OPENAI_API_KEY]"
)
@click.option("--role", help="Judge every row as this role's, whatever the row says.")
@click.option(
    "--by", default="source", show_default=True, help="Field of the rows that the table is grouped by."
)
@click.option(
    "--worst", type=click.IntRange(0, 1000), default=10, show_default=True, help="Mistakes to show."
)
@click.option("--no-texts", is_flag=True, help="Tell mistakes by file and line only.")
@click.option("--fail-under", type=_SHARE, metavar="RECALL", help="Exit 1 if recall is lower.")
@click.option("--fail-over", type=_SHARE, metavar="RATE", help="Exit 1 if more harmless texts are flagged.")
@click.option("--floors", type=_FILE, help="YAML file of figures that must hold; exit 1 if one does not.")
@click.option(
    "--seed",
    type=int,
    default=0,
    show_default=True,
    help="Seed of the simulated intervals and the bootstrap.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON.")
def evaluate(
    files: tuple[str, ...],
    compared: tuple[str, ...],
    output: str | None,
    policy: str | None,
    preset: str | None,
    target: str | None,
    api_key: str | None,
    role: str | None,
    by: str,
    worst: int,
    no_texts: bool,
    fail_under: float | None,
    fail_over: float | None,
    floors: str | None,
    seed: int,
    as_json: bool,
) -> None:
    """Measure the input guard on labelled texts.

    FILE.jsonl holds {"text", "label", "source"?, "role"?} a line, label 1 for an attack, 0 for a harmless text.
    Prints recall, false positives, recall at fixed false-positive rates, each with its 95% interval, a table by
    source, latency, and the worst mistakes. Exit code 1: a figure does not hold.
    """
    from pathlib import Path

    from sparkle.cli_progress import progress_on_stderr
    from sparkle.evaluation.comparison import compare, read_scores
    from sparkle.evaluation.figures import Scored, figures
    from sparkle.evaluation.floors import Floors, merged, read_floors, shortfalls
    from sparkle.evaluation.report import console_for, print_report, to_json
    from sparkle.evaluation.rows import Row, read_rows, script_of
    from sparkle.evaluation.running import judge_rows

    if target and (policy or preset):
        raise click.UsageError("a running Sparkle has its own policy: give --target or --policy/--preset")
    rows = read_rows(files)
    others = [(Path(path).stem, read_scores(path, rows)) for path in compared]
    must = merged(read_floors(floors) if floors else Floors(), recall=fail_under, false_positives=fail_over)
    with ExitStack() as stack:
        detector = _detector(stack, policy, preset, target, api_key)
        writer = stack.enter_context(click.open_file(output, "wb")) if output else None
        scored = judge_rows(
            rows,
            detector,
            role=role,
            progress=progress_on_stderr("rows"),
            writer=cast("BinaryIO | None", writer),
        )

    def told(name: str, entries: list[Scored]):
        def group_of(row: Row) -> str:
            return row.source if by == "source" else row.role if by == "role" else row.fields.get(by, "–")

        return figures(name, entries, group_of=group_of, script_of=script_of, worst=worst, seed=seed)

    ours = told(detector.name, scored)
    theirs = [told(name, entries) for name, entries in others]
    comparisons = [compare((detector.name, name), scored, entries, seed=seed) for name, entries in others]
    if as_json:
        click.echo(
            json.dumps(to_json(ours, theirs, comparisons, texts=not no_texts), ensure_ascii=False, indent=2)
        )
    else:
        print_report(
            console_for(terminal=sys.stdout.isatty()), ours, theirs, comparisons, group=by, texts=not no_texts
        )
    failures = list(shortfalls(ours, must))
    for failure in failures:
        click.echo(failure, err=True)
    sys.exit(1 if failures else 0)


def _detector(
    stack: ExitStack, policy: str | None, preset: str | None, target: str | None, api_key: str | None
) -> Detector:
    from sparkle.evaluation.detector import RemoteDetector, open_guard

    if not target:
        return open_guard(policy, preset)
    remote = RemoteDetector(target, api_key)
    stack.callback(remote.close)
    return remote
