"""The systems that run long tasks side by side, and how each is started."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from bench.errors import BenchError

_APPS = Path(__file__).parent / "apps"
_START_SECONDS = 60.0
_STOP_SECONDS = 8.0


@dataclass(frozen=True, slots=True)
class Kit:
    """What one system needs: programs to start, and how tasks are handed to it.

    Attributes:
        name: For tables.
        enqueue: Command that enqueues; KIND and COUNT are added.
        workers: Commands that run tasks, by a word for each.
        services: Commands that must run before anything else, by a word for each.
        env: Variables of all of them.
        broker_socket: Where the broker listens; the first service is ready when it does.
        idle: Whether all tasks are over for the system itself; ``None``: the marks are all there is to go by.
    """

    name: str
    enqueue: tuple[str, ...]
    workers: Mapping[str, tuple[str, ...]]
    services: Mapping[str, tuple[str, ...]]
    env: Mapping[str, str]
    broker_socket: Path
    idle: Callable[[], bool] | None = None


@dataclass(slots=True)
class Stage:
    """One system's services, running, with a place for its files."""

    kit: Kit
    folder: Path
    pids: dict[str, int] = field(default_factory=dict[str, int])

    @property
    def marks(self) -> Path:
        """The file with one byte for every run of a task."""
        return Path(self.kit.env["BENCH_MARKS"])

    def enqueue(self, kind: str, count: int) -> dict[str, float | list[float]]:
        """Hand tasks over in a process of its own; what it printed.

        Raises:
            BenchError: It failed.
        """
        command = [*self.kit.enqueue, kind, str(count)]
        done = subprocess.run(
            command, env=_environ(self.kit), cwd=self.folder, capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            last = (done.stderr.strip().splitlines() or ["no output"])[-1]
            raise BenchError(f"{self.kit.name} could not enqueue: {last}")
        return json.loads(done.stdout.strip().rpartition("\n")[2])

    @contextmanager
    def working(self) -> Generator[None]:
        """The workers run."""
        with ExitStack() as stack:
            for word, command in self.kit.workers.items():
                self.pids[word] = stack.enter_context(_running(command, self.kit, self.folder, word)).pid
            yield


def sparkle(folder: Path) -> Kit:
    """Sparkle with its embedded broker: ``sparkle relay``, ``beat`` and ``worker --concurrency 2``."""
    from sparkle.tasks.broker import broker_command, broker_socket
    from sparkle.tasks.ledger import Ledger

    data = folder / "data"
    program = str(Path(sys.executable).with_name("sparkle"))
    ledger = Ledger.open(data)

    def idle() -> bool:
        # The one task that only opened the ledger is due in an hour.
        return sum(count.tasks for count in ledger.counts(finished=False)) <= 1

    return Kit(
        "Sparkle",
        (sys.executable, str(_APPS / "sparkle_app.py")),
        {
            "relay": (program, "relay"),
            "worker": (program, "worker", "--concurrency", "2"),
        },
        {"broker": tuple(broker_command(data)), "beat": (program, "beat")},
        {
            "BENCH_MARKS": str(folder / "marks"),
            "SPARKLE_DATA_DIR": str(data),
            "SPARKLE_TASKS__MODULES": '["sparkle_app"]',
            "SPARKLE_MONITORING__LOG_LEVEL": "warning",
        },
        broker_socket(data),
        idle,
    )


def celery(folder: Path) -> Kit:
    """Plain Celery: prefork with 2 processes, late acknowledgement, no results."""
    program = str(Path(sys.executable).with_name("celery"))
    worker = (program, "-A", "celery_bench", "worker", "-c", "2", "--loglevel", "ERROR", "--without-gossip")
    return _on_valkey(
        "Celery", folder, sys.executable, "celery_bench.py", (*worker, "--without-mingle"), "redis+socket"
    )


def taskiq(folder: Path, python: str) -> Kit:
    """taskiq on Redis streams with 2 workers."""
    program = _beside(python, "taskiq")
    worker = (program, "worker", "taskiq_bench:broker", "--workers", "2", "--log-level", "ERROR")
    return _on_valkey("taskiq", folder, python, "taskiq_bench.py", worker, "unix")


def dramatiq(folder: Path, python: str) -> Kit:
    """dramatiq with 2 processes of 8 threads."""
    program = _beside(python, "dramatiq")
    worker = (program, "dramatiq_bench", "--processes", "2", "--threads", "8")
    return _on_valkey("dramatiq", folder, python, "dramatiq_bench.py", worker, "unix")


@contextmanager
def on_stage(make: Callable[[Path], Kit], folder: Path) -> Generator[Stage]:
    """A system's services in a folder of their own, until the end of the block.

    Raises:
        BenchError: A service does not start.
    """
    place = folder / secrets.token_hex(3)
    place.mkdir()
    kit = make(place)
    stage = Stage(kit, place)
    stage.marks.touch()
    with ExitStack() as stack:
        for word, command in kit.services.items():
            process = stack.enter_context(_running(command, kit, place, word))
            stage.pids[word] = process.pid
            if word == "broker":
                _wait(kit.broker_socket.exists, process, place / f"{word}.log", kit.name)
        yield stage


def _on_valkey(name: str, folder: Path, python: str, app: str, worker: tuple[str, ...], scheme: str) -> Kit:
    """A system on the same Valkey as Sparkle's own, with the same append-only file."""
    from sparkle.tasks.broker import server_arguments, valkey_server

    data = folder / "valkey"
    data.mkdir()
    socket = data / "v.sock"
    return Kit(
        name,
        (python, str(_APPS / app)),
        {"worker": worker},
        {"broker": tuple(server_arguments(valkey_server(), data, socket))},
        {"BENCH_MARKS": str(folder / "marks"), "BENCH_BROKER": f"{scheme}://{socket}"},
        socket,
    )


def _beside(python: str, program: str) -> str:
    found = Path(python).absolute().parent / program
    if not found.exists():
        raise BenchError(
            f"no {program} beside {Path(python).name}; docs/benchmarks.md says how to install it"
        )
    return str(found)


def _environ(kit: Kit) -> dict[str, str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SPARKLE_")}
    return {**clean, "PYTHONPATH": str(_APPS), **kit.env}


@contextmanager
def _running(command: Sequence[str], kit: Kit, folder: Path, word: str) -> Generator[subprocess.Popen[bytes]]:
    with (folder / f"{word}.log").open("ab") as log:
        process = subprocess.Popen(
            command, env=_environ(kit), cwd=folder, stdout=log, stderr=log, start_new_session=True
        )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_STOP_SECONDS)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def _wait(ready: Callable[[], bool], process: subprocess.Popen[bytes], log: Path, name: str) -> None:
    give_up = time.monotonic() + _START_SECONDS
    while not ready():
        if process.poll() is not None or time.monotonic() > give_up:
            last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
            raise BenchError(f"{name} did not start: {last}")
        time.sleep(0.01)
