"""The processes that long tasks need on one machine, as commands for a supervisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from sparkle.errors import MissingExtraError
from sparkle.settings import Settings


@dataclass(frozen=True, slots=True)
class TaskCommand:
    """One process to start and keep alive."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str]
    stage: int
    """Order of stopping: the worker first, while relay and broker still serve it; the broker last."""


def task_commands(settings: Settings, config: str | None = None) -> list[TaskCommand]:
    """Broker (if it is the embedded one), relay, beat and worker, in the order of starting.

    Nothing has to wait for anything: each tries again until what it needs is there.

    Args:
        settings: Where the data folder is and which broker.
        config: Settings file they read besides the environment.

    Raises:
        MissingExtraError: The extra ``tasks`` is not installed.
        ConfigurationError: No broker has the configured address, or one runs on this data folder already.
    """
    from importlib.util import find_spec

    for package in ("celery", "sqlalchemy", "alembic", "redis"):
        if find_spec(package) is None:
            raise MissingExtraError("tasks", "--with-worker")
    # Metrics of this process family are counted in a folder whose files belong to the gateway's workers.
    env = {name: value for name, value in os.environ.items() if not name.startswith("PROMETHEUS_")}
    options = ["--data-dir", str(settings.data_dir.absolute()), *(["--config", config] if config else [])]

    def sparkle(name: str, stage: int) -> TaskCommand:
        argv = (sys.executable, "-m", "sparkle.cli", name, *options, "--die-with-parent")
        return TaskCommand(name, argv, env, stage)

    commands = [sparkle("relay", 1), sparkle("beat", 1), sparkle("worker", 0)]
    if not settings.tasks.broker_url:
        from sparkle.tasks.broker import broker_command, must_be_free, valkey_server

        valkey_server()  # said here, once, if it is missing
        must_be_free(settings.data_dir)  # and not again and again by a broker that is started again and again
        commands.insert(0, TaskCommand("broker", tuple(broker_command(settings.data_dir)), env, 2))
    return commands
