"""``sparkle serve``."""

from __future__ import annotations

import sys

import click


@click.command()
@click.option("--host", help="Address to listen on; beyond loopback API keys are demanded. [127.0.0.1]")
@click.option("--port", type=int, help="Port; 0 takes a free one. [8000]")
@click.option("--workers", type=int, help="Gateway processes. [1]")
@click.option(
    "--data-dir", type=click.Path(file_okay=False), help="Folder for databases, audit and caches. [.sparkle]"
)
@click.option("--upstream", help="Base URL of an OpenAI-compatible API; none: the local model answers.")
@click.option("--policy", type=click.Path(dir_okay=False), help="Policy file; none: the shipped default.")
@click.option(
    "--config", type=click.Path(dir_okay=False), help="YAML file with any setting (see `sparkle settings`)."
)
@click.option(
    "--with-worker", is_flag=True, help="Also run long tasks: broker, relay, beat and worker, supervised."
)
@click.option("--die-with-parent", is_flag=True, hidden=True, help="Stop when the starting process ends.")
def serve(
    host: str | None,
    port: int | None,
    workers: int | None,
    data_dir: str | None,
    upstream: str | None,
    policy: str | None,
    config: str | None,
    with_worker: bool,
    die_with_parent: bool,
) -> None:
    """Run the OpenAI-compatible gateway."""
    from sparkle.server.serve import run
    from sparkle.server.supervisor import die_with_parent as follow_parent
    from sparkle.settings import load_settings

    if die_with_parent:
        follow_parent()
    settings = load_settings(
        file=config,
        overrides={
            "server.host": host,
            "server.port": port,
            "server.workers": workers,
            "data_dir": data_dir,
            "provider.upstream": upstream,
            "policy": policy,
        },
    )
    sys.exit(run(settings, with_worker=with_worker, config=config))
