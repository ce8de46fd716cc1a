"""Metrics of several workers in one scrape: what the supervisor does around its forks."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from sparkle.errors import ConfigurationError
from sparkle.series import MULTIPROC_VARIABLE


def share_metrics(folder: Path) -> None:
    """Make this process and those it forks add up their metrics through files in ``folder``.

    Call it once in the supervisor before any worker starts. Files of an earlier run are removed, because
    their process ids mean nothing any more. A worker that is forked or spawned inherits the choice.

    Raises:
        ConfigurationError: ``prometheus_client`` is already imported and has chosen to count per process.
        OSError: The folder cannot be made or emptied.
    """
    if "prometheus_client" in sys.modules and MULTIPROC_VARIABLE not in os.environ:
        raise ConfigurationError("metrics can only be shared before prometheus_client is first imported")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    for stale in folder.glob("*.db"):
        stale.unlink(missing_ok=True)
    os.environ[MULTIPROC_VARIABLE] = str(folder)


def forget_process(pid: int) -> None:
    """Take a dead worker's gauges (running calls) out of the sum; its counters stay, they happened.

    Call it in the supervisor for every worker that ended. Does nothing where metrics are not shared.
    """
    if os.environ.get(MULTIPROC_VARIABLE):
        from prometheus_client import multiprocess

        multiprocess.mark_process_dead(pid)  # pyright: ignore[reportUnknownMemberType]  untyped library
