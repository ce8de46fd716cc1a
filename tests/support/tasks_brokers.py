"""Brokers of others as tests start them: RabbitMQ and Redis from the distribution's packages."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Generator
from pathlib import Path
from urllib.parse import quote

_START_SECONDS = 90.0
_RABBITMQ = Path("/usr/lib/rabbitmq/bin/rabbitmq-server")
"""Not the one on the path: that one changes the user and the folders."""


def free_ports(count: int) -> list[int]:
    """Ports of the loopback that nobody listens on now."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for sock in sockets:
            sock.bind(("127.0.0.1", 0))
        return [sock.getsockname()[1] for sock in sockets]


def _wait(condition: Callable[[], bool], process: subprocess.Popen[bytes], log: Path) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while not condition():
        said = log.read_text(errors="replace")[-3000:]
        assert process.poll() is None, f"the broker ended at its start:\n{said}"
        assert time.monotonic() < give_up, f"the broker did not start in {_START_SECONDS} s:\n{said}"
        time.sleep(0.05)  # waits for another process, not for time to pass


def _accepts(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 1.0).close()
    except OSError:
        return False
    return True


@contextlib.contextmanager
def running_rabbitmq() -> Generator[str]:
    """A RabbitMQ node of its own: name, ports, folders, port mapper. Yields its URL.

    Raises:
        FileNotFoundError: The distribution's package is not installed.
    """
    if not _RABBITMQ.exists():
        raise FileNotFoundError("RabbitMQ: apt-get install rabbitmq-server")
    folder = Path(tempfile.mkdtemp(prefix="rq"))
    port, distribution, mapper = free_ports(3)
    (folder / "rabbitmq.conf").write_text(
        f"listeners.tcp.1 = 127.0.0.1:{port}\nlog.file = false\nlog.console = true\nlog.console.level = warning\n"
    )
    (folder / "plugins").write_text("[].\n")
    env = {
        **os.environ,
        "HOME": str(folder),
        "RABBITMQ_NODENAME": f"sparkle{os.getpid()}@localhost",
        "RABBITMQ_DIST_PORT": str(distribution),
        "ERL_EPMD_PORT": str(mapper),
        "ERL_EPMD_ADDRESS": "127.0.0.1",
        "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
        "RABBITMQ_LOG_BASE": str(folder / "log"),
        "RABBITMQ_CONFIG_FILE": str(folder / "rabbitmq.conf"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "plugins"),
        "RABBITMQ_CONF_ENV_FILE": str(folder / "none"),
        "RABBITMQ_PID_FILE": str(folder / "pid"),
        # One scheduler that does not spin: the machine is small and shared.
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "+S 1:1 +sbwt none +sbwtdcpu none +sbwtdio none",
    }
    log = folder / "out.log"
    with log.open("wb") as out:
        # Otherwise the node starts a port mapper of its own, which outlives it.
        names = subprocess.Popen(["epmd"], env=env, stdout=out, stderr=out)
        process = subprocess.Popen([_RABBITMQ], env=env, stdout=out, stderr=out, start_new_session=True)
    try:
        _wait(lambda: _accepts(port), process, log)
        yield f"amqp://guest:guest@127.0.0.1:{port}//"
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        names.kill()
        names.wait()
        shutil.rmtree(folder, ignore_errors=True)


@contextlib.contextmanager
def running_redis() -> Generator[str]:
    """A Redis that listens on a port, wants a password and keeps nothing on disk. Yields its URL.

    Raises:
        FileNotFoundError: The distribution's package is not installed.
    """
    if shutil.which("redis-server") is None:
        raise FileNotFoundError("Redis: apt-get install redis-server")
    folder = Path(tempfile.mkdtemp(prefix="rd"))
    (port,) = free_ports(1)
    password = "p@ss/word"
    log = folder / "out.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [
                *("redis-server", "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)),
                *("--requirepass", password, "--save", "", "--appendonly", "no"),
            ],
            stdout=out,
            stderr=out,
        )
    try:
        _wait(lambda: _accepts(port), process, log)
        yield f"redis://:{quote(password, safe='')}@127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()
        shutil.rmtree(folder, ignore_errors=True)
