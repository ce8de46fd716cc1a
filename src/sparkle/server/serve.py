"""``sparkle serve``, put together: the supervisor, its workers, the local model's process."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

from sparkle.server.logs import log_to_stderr
from sparkle.server.metrics_folder import metrics_folder
from sparkle.settings import Settings

if TYPE_CHECKING:
    from sparkle.compose import Preloaded
    from sparkle.llm.providers import LocalModel
    from sparkle.tasks.commands import TaskCommand


def run(settings: Settings, *, with_worker: bool = False, config: str | None = None) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit code.

    Args:
        settings: Everything configurable.
        with_worker: Also run what long tasks need: broker (if it is the embedded one), relay, beat and a worker.
        config: Settings file for those processes, which read their settings themselves.

    Raises:
        ConfigurationError: The port is taken, the policy is wrong, or a part is not installed.
    """
    log_to_stderr(settings.monitoring.log_level)
    from sparkle.llm.monitoring import share_metrics

    os.umask(0o077)  # databases, logs and audit files are their owner's alone, whatever the folder allows
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with metrics_folder(settings.data_dir) as folder:
        share_metrics(folder)
        return _run(settings, _task_commands(settings, config) if with_worker else [])


def _run(settings: Settings, task_commands: list[TaskCommand]) -> int:
    from sparkle.compose import preload
    from sparkle.llm.monitoring import forget_process
    from sparkle.llm.providers import LocalModel
    from sparkle.server.supervisor import Supervisor, bind

    sockets = bind(settings.server.host, settings.server.port, settings.server.workers)
    port: int = sockets[0].getsockname()[1]
    preloaded = preload(settings)
    local = LocalModel.wanted(settings.provider, settings.data_dir)
    supervisor = Supervisor(
        drain_seconds=max(
            settings.server.drain_seconds + settings.server.drain_delay_seconds,
            settings.tasks.shutdown_seconds if task_commands else 0.0,
        ),
        on_ready=lambda: _announce(settings, port),
        on_child_exit=forget_process,
        on_stop=lambda: _close(sockets),
    )
    if local is not None:
        child = local.command
        supervisor.add_command(child.name, child.argv, child.env, str(child.log_path))
    for command in task_commands:
        supervisor.add_command(command.name, command.argv, command.env, None, stage=command.stage)
    for i, sock in enumerate(sockets):
        supervisor.add_worker(f"gateway worker {i + 1}", _worker(settings, preloaded, local, sockets, sock))
    return supervisor.run()


def _task_commands(settings: Settings, config: str | None) -> list[TaskCommand]:
    from sparkle.tasks.commands import task_commands

    return task_commands(settings, config)


def _worker(
    settings: Settings,
    preloaded: Preloaded,
    local: LocalModel | None,
    sockets: list[socket.socket],
    own: socket.socket,
) -> Callable[[Callable[[], None]], int]:
    def run_worker(ready: Callable[[], None]) -> int:
        from sparkle.server.compose import build_gateway
        from sparkle.server.worker import serve

        for sock in sockets:
            if sock is not own:
                sock.close()
        return serve(build_gateway(settings, preloaded, local), own, ready)

    return run_worker


def _close(sockets: list[socket.socket]) -> None:
    # Ours keep the port open for the successor of a crashed worker. On a stop nobody would accept what queues here.
    for sock in sockets:
        sock.close()


def _announce(settings: Settings, port: int) -> None:
    host = settings.server.host
    shown = f"[{host}]" if ":" in host else host
    sys.stdout.write(f"Sparkle listens on http://{shown}:{port} (docs: /docs, OpenAI base URL: /v1)\n")
    sys.stdout.flush()
