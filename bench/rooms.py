"""The parts that are measured inside one process, each by a file of its own with ``run(quick)``."""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable

from bench.errors import BenchError
from bench.report import Part, Table

MODULES = {
    "guards": ("bench.input_guard", "bench.output_guard"),
    "quota": ("bench.quota",),
    "provider": ("bench.provider",),
    "monitoring": ("bench.monitoring",),
}
"""Part to the modules that measure it."""


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
        say(name)
        try:
            rows = _rows(name, quick)
        except Exception as exc:  # noqa: BLE001  whatever one part's measurement does, the others are still wanted
            say(f"  {name} failed: {type(exc).__name__}: {exc}")
            failures.append(f"{name}: {type(exc).__name__}: {exc}")
            continue
        tables.append(Table(name.removeprefix("bench.").replace("_", " "), ("what", "figure"), rows))
    return Part(part, command, time.monotonic() - began, tuple(tables), failures=tuple(failures))


def _rows(name: str, quick: bool) -> tuple[tuple[str, ...], ...]:
    measure: Callable[[bool], list[tuple[str, str]]] | None = getattr(
        importlib.import_module(name), "run", None
    )
    if measure is None:
        raise BenchError(f"{name} has no run(quick)")
    return tuple(tuple(row) for row in measure(quick))
