"""``python -m bench``: measures and prints.

Exits with 0 when everything was measured, whatever the figures; with 1 when something could not be.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
from rich.console import Console

from bench import gateway, machine, rooms, screen, streaming, tasks
from bench.errors import BenchError
from bench.report import Part, Run, judge

PARTS = ("gateway", "streaming", "tasks", *rooms.MODULES)


def main() -> int:
    """Measure what the command line asks for; returns the exit code."""
    options = _options()
    console = screen.console()
    began = time.monotonic()

    def say(text: str) -> None:
        print(f"[{time.monotonic() - began:5.0f} s] {text}", file=sys.stderr, flush=True)

    facts = machine.facts()
    started = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    console.print(
        "Machine: " + ", ".join(f"{name} {value}" for name, value in facts.items()), highlight=False
    )
    parts: list[Part] = []
    for name in PARTS if options.part == "all" else (options.part,):
        say(f"measuring {name}")
        part = _measure(name, options, say)
        _print(console, part)
        parts.append(part)
    if options.json:
        run = Run(started, facts, tuple(parts))
        Path(options.json).write_bytes(msgspec.json.format(msgspec.json.encode(run), indent=1) + b"\n")
        say(f"written to {options.json}")
    say("done")
    return 1 if any(part.failures for part in parts) else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Measure Sparkle; docs/benchmarks.md explains."
    )
    parser.add_argument("part", nargs="?", choices=(*PARTS, "all"), default="all")
    parser.add_argument("--quick", action="store_true", help="everything once and short (about two minutes)")
    parser.add_argument("--json", metavar="FILE", help="also write all results there")
    parser.add_argument("--repeats", type=int, metavar="N", help="starts of every system")
    parser.add_argument(
        "--body", choices=("varied", "baseline"), default="varied", help="texts, or one constant body"
    )
    parser.add_argument(
        "--litellm", metavar="PYTHON", default="", help="a Python with litellm[proxy], to compare with"
    )
    parser.add_argument(
        "--peers",
        metavar="PYTHON",
        default="",
        help="a Python with aiojobs, anyio, taskiq-redis and dramatiq[redis], to compare tasks with",
    )
    parser.add_argument(
        "--million",
        type=int,
        nargs="?",
        const=1_000_000,
        default=0,
        metavar="N",
        help="tasks: also schedule and drain N of them (a million, about 8 minutes in all)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        default=0,
        metavar="S",
        help="spend up to S seconds on finding a quiet moment for each run",
    )
    return parser.parse_args()


def _measure(name: str, options: argparse.Namespace, say: Callable[[str], None]) -> Part:
    command = _command(name, options)
    setting = gateway.Setting(command, say, options.litellm, options.patience)
    repeats: dict[str, int] = {} if options.repeats is None else {"repeats": options.repeats}
    try:
        if name == "gateway":
            calls = gateway.QUICK if options.quick else gateway.Plan()
            calls = replace(calls, body=options.body, **repeats)
            return gateway.run(calls, setting)
        if name == "streaming":
            streams = replace(streaming.QUICK if options.quick else streaming.Plan(), **repeats)
            return streaming.run(streams, setting)
        if name == "tasks":
            plan = tasks.QUICK if options.quick else tasks.Plan()
            plan = replace(plan, peers=options.peers, million=options.million, **repeats)
            return tasks.run(plan, setting)
        return rooms.run(name, options.quick, command=command, say=say)
    except BenchError as exc:
        return Part(name, command, 0.0, (), failures=(str(exc),))


def _command(part: str, options: argparse.Namespace) -> str:
    words = ["python", "-m", "bench", part]
    words += ["--quick"] if options.quick else []
    words += ["--repeats", str(options.repeats)] if options.repeats is not None else []
    words += ["--body", options.body] if options.body != "varied" and part == "gateway" else []
    words += (
        ["--patience", f"{options.patience:g}"]
        if options.patience and part in ("gateway", "streaming")
        else []
    )
    words += ["--million", str(options.million)] if options.million and part == "tasks" else []
    # The path is the caller's own; a report names only what has to stand there.
    words += ["--peers", "PYTHON"] if options.peers and part == "tasks" else []
    words += ["--litellm", "PYTHON"] if options.litellm and part in ("gateway", "streaming") else []
    return shlex.join(words)


def _print(console: Console, part: Part) -> None:
    console.rule(f"{part.name}: {part.command} ({part.seconds:.0f} s)", align="left")
    verdict = judge(part)
    for table in (*part.tables, *([verdict] if verdict else [])):
        screen.show(console, table)
    for failure in part.failures:
        console.print(f"NOT MEASURED: {failure}", style="bold red", markup=False)
    console.print()


if __name__ == "__main__":
    sys.exit(main())
