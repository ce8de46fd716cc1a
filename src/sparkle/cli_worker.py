"""``sparkle worker``, ``sparkle relay``, ``sparkle beat`` and ``sparkle broker``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

import click


def _common(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--die-with-parent", is_flag=True, hidden=True),
        click.option("--config", type=click.Path(dir_okay=False), help="YAML file with any setting."),
        click.option(
            "--data-dir", type=click.Path(file_okay=False), help="Folder of ledger and broker. [.sparkle]"
        ),
    ):
        command = option(command)
    return command


def _settings(data_dir: str | None, config: str | None, die_with_parent: bool) -> Any:
    from sparkle.settings import load_settings

    if die_with_parent:
        from sparkle.server.supervisor import die_with_parent as follow_parent

        follow_parent()
    return load_settings(file=config, overrides={"data_dir": data_dir})


@click.command()
@_common
@click.option("--queues", help="Queues to serve, comma-separated, the first served first. [all]")
@click.option("--concurrency", type=int, default=0, help="Worker processes. [one for each core]")
def worker(
    data_dir: str | None, config: str | None, die_with_parent: bool, queues: str | None, concurrency: int
) -> None:
    """Run long tasks.

    SIGTERM lets running tasks end and hands back the rest; SIGQUIT hands all of them back at once.
    """
    from sparkle.tasks.processes import run_worker

    settings = _settings(data_dir, config, die_with_parent)
    names = [name.strip() for name in (queues or "").split(",") if name.strip()]
    sys.exit(run_worker(settings, queues=names, concurrency=concurrency))


@click.command()
@_common
@click.option(
    "--metrics-port", type=int, help="Also serve the long tasks' metrics here; 0 takes a free port."
)
@click.option("--metrics-host", default="127.0.0.1", help="Address of that port. [127.0.0.1]")
def relay(
    data_dir: str | None,
    config: str | None,
    die_with_parent: bool,
    metrics_port: int | None,
    metrics_host: str,
) -> None:
    """Carry long tasks from the ledger to the broker. One is active, further ones stand by."""
    from sparkle.tasks.processes import run_relay

    settings = _settings(data_dir, config, die_with_parent)
    if metrics_port is None:
        sys.exit(run_relay(settings))
    from sparkle.server.metrics_port import MetricsPort

    with MetricsPort(metrics_host, metrics_port) as port:
        click.echo(f"metrics on {port.url}")
        code = run_relay(settings, report=port.show)
    sys.exit(code)


@click.command()
@_common
def beat(data_dir: str | None, config: str | None, die_with_parent: bool) -> None:
    """Schedule recurring tasks. One is active, further ones stand by; no tick fires twice."""
    from sparkle.tasks.processes import run_beat

    sys.exit(run_beat(_settings(data_dir, config, die_with_parent)))


@click.command()
@_common
def broker(data_dir: str | None, config: str | None, die_with_parent: bool) -> None:
    """Run the embedded broker in the foreground; for machines where nothing else starts it."""
    from sparkle.tasks.broker import become_broker

    settings = _settings(data_dir, config, False)
    become_broker(settings.data_dir, os.getppid() if die_with_parent else None)
