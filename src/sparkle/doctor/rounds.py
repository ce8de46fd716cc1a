"""All the checks, in the order in which one depends on another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from sparkle.doctor import ledger, machine, network
from sparkle.doctor.findings import Check, Finding, examine, failed, ok
from sparkle.errors import ConfigurationError
from sparkle.settings import Settings, load_settings

CHECKS: Mapping[str, Check] = {
    "python": machine.python,
    "extras": machine.extras,
    "task modules": machine.task_modules,
    "data folder": machine.data_folder,
    "policy": network.policy,
    "database": ledger.database,
    "broker": network.broker,
    "processes": ledger.processes,
    "upstream": network.upstreams,
    "gateway": network.gateway,
}
"""By name: each is independent and takes a few seconds at most."""


def findings(
    *, file: str | Path | None = None, overrides: Mapping[str, Any] | None = None
) -> Iterator[Finding]:
    """Examine an installation, one finding at a time. Changes nothing.

    Args:
        file: YAML file with settings; ``None``: the one that SPARKLE_CONFIG names.
        overrides: Settings by dotted name.
    """
    try:
        settings = load_settings(file=file, overrides=overrides)
    except ConfigurationError as exc:
        problems = exc.details.get("problems") or [exc.message]
        for problem in problems:
            yield failed("settings", str(problem), "change it; `sparkle settings` lists all of them")
        yield from examine("python", machine.python, Settings())
        return
    yield ok("settings", "all known and in range")
    for name, check in CHECKS.items():
        yield from examine(name, check, settings)
