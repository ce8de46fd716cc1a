"""``python -m tests.chaos``: breaks a running stack in every way there is and prints what was lost (``make chaos``)."""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tests.chaos.driver import Plan, RoundResult, run
from tests.chaos.faults import FAULTS

COLUMNS = (
    "fault", "tasks", "succeeded", "lost", "stuck", "failed", "twice", "doubled", "repeated", "in flight",
    "unexplained", "recovered s", "slowest schedule ms", "refused",
)  # fmt: skip


def main() -> int:
    """Run what was asked for; 0 if nothing was lost, stuck, doubled or late."""
    options = _options()
    screen = Console(stderr=True)
    results: dict[str, list[RoundResult]] = {}
    for fault in options.faults:
        plan = Plan(
            fault,
            rounds=options.rounds,
            tasks=options.tasks,
            seconds=options.seconds,
            database_url=options.database_url,
            broker_url=options.broker_url,
            seed=options.seed,
        )
        results[fault] = []
        for number, result in enumerate(run(plan), 1):
            results[fault].append(result)
            screen.print(
                f"{fault} {number}/{options.rounds}: {result.count.succeeded}/{result.count.tasks} succeeded, "
                f"recovered after {result.recovered:.1f} s"
            )
    table = Table(*COLUMNS, title=f"{options.rounds} rounds of {options.tasks} tasks per fault")
    for fault, rounds in results.items():
        table.add_row(fault, *row(rounds))
    Console(width=200 if not sys.stdout.isatty() else None).print(table)
    if options.json:
        Path(options.json).write_text(
            json.dumps({fault: [asdict(result) for result in rounds] for fault, rounds in results.items()})
        )
    return int(not all(result.kept(fault) for fault, rounds in results.items() for result in rounds))


def row(rounds: Sequence[RoundResult]) -> list[str]:
    """Sums of the rounds; median and maximum of what is a time."""

    def total(name: str) -> str:
        return str(sum(getattr(result.count, name) for result in rounds))

    recovered = [result.recovered for result in rounds]
    return [
        *(
            total(name)
            for name in ("tasks", "succeeded", "lost", "stuck", "failed", "twice", "doubled", "repeated")
        ),
        str(sum(result.in_flight for result in rounds)),
        str(sum(result.unexplained for result in rounds)),
        f"{statistics.median(recovered):.1f} (max {max(recovered):.1f})",
        f"{max(result.slowest_schedule for result in rounds) * 1000:.0f}",
        str(sum(result.refused for result in rounds)),
    ]


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("faults", nargs="*", default=[*FAULTS], help=f"of: {', '.join(FAULTS)}")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--tasks", type=int, default=500)
    parser.add_argument("--seconds", type=float, default=0.02, help="length of one task")
    parser.add_argument(
        "--database-url", default="", help="a PostgreSQL instead of SQLite in a temporary folder"
    )
    parser.add_argument("--broker-url", default="", help="a broker that runs already, e.g. amqp://")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", help="also write every round there")
    options = parser.parse_args()
    if unknown := set(options.faults) - set(FAULTS):
        parser.error(f"no such fault: {', '.join(sorted(unknown))}")
    return options


if __name__ == "__main__":
    sys.exit(main())
