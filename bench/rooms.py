"""The parts that are measured without a server, each by a file of its own with ``run(quick)``.

Every file runs in a process of its own, so that what one imported or left in memory does not weigh on the next:
``python -m bench.rooms bench.output_guard [--quick]`` prints its rows as JSON on the last line.
"""

from __future__ import annotations

import argparse
import importlib
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench.errors import BenchError
from bench.report import Part, Table

MODULES = {
    "guards": ("bench.input_guard", "bench.output_guard"),
    "quota": ("bench.quota",),
    "provider": ("bench.provider",),
    "monitoring": ("bench.monitoring",),
    "ledger": ("bench.ledger",),
}
"""Part to the modules that measure it."""
_ROOT = Path(__file__).parent.parent
_LONGEST = 300.0
"""Seconds after which a module is given up."""

Rows = list[tuple[str, str]]


def run(part: str, quick: bool, *, command: str, say: Callable[[str], None]) -> Part:
    """Run the modules of one part.

    Args:
        part: One of :data:`MODULES`.
        quick: Less of everything.
        command: The command that repeats this, for the report.
        say: Told what happens while it happens.
    """
    began = time.monotonic()
    tables: list[Table] = []
    failures: list[str] = []
    for name in MODULES[part]:
        say(f"  {name}")
        try:
            rows = measure(name, quick)
        except BenchError as exc:
            say(f"  not measured: {str(exc).splitlines()[0]}")
            failures.append(str(exc))
            continue
        tables.append(Table(name.removeprefix("bench.").replace("_", " "), ("what", "figure"), tuple(rows)))
    return Part(part, command, time.monotonic() - began, tuple(tables), failures=tuple(failures))


def measure(module: str, quick: bool) -> Rows:
    """Rows of name and figure that a module measured in a process of its own.

    Raises:
        BenchError: It failed, took more than 300 s or printed no rows.
    """
    argv = [sys.executable, "-m", "bench.rooms", module, *(["--quick"] if quick else [])]
    try:
        done = subprocess.run(argv, cwd=_ROOT, capture_output=True, text=True, check=False, timeout=_LONGEST)
    except subprocess.TimeoutExpired:
        raise BenchError(f"{module} was not done after {_LONGEST:.0f} s") from None
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or ["no output"]
        raise BenchError("\n".join([f"{module}: {lines[-1]}", *(f"    | {line}" for line in lines[-12:])]))
    try:
        return msgspec.json.decode(done.stdout.strip().rpartition("\n")[2], type=Rows)
    except msgspec.DecodeError as exc:
        raise BenchError(f"{module} printed no rows: {exc}") from None


def main() -> None:
    """Run one module in this process."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("module")
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rows: Rows = importlib.import_module(options.module).run(options.quick)
    print("\n" + msgspec.json.encode(rows).decode())


if __name__ == "__main__":
    main()
