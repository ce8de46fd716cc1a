"""What is done to a running stack, once a round; what a service manager would start again is started."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import text
from tests.support.serve import wait_for_end
from tests.support.tasks_processes import Proc, Stack

FAILURES = "failures"
FREEZE_SECONDS = 3.0
FULL_SECONDS = 2.0
SMALL_DISK = "256m"


@dataclass(slots=True)
class World:
    """A stack and who plays which part in it."""

    stack: Stack
    rng: random.Random
    broker: Proc | None = None
    relay: Proc | None = None
    worker: Proc | None = None
    beside: Proc | None = None
    """A second worker, of another version."""
    server: Proc | None = None
    """``sparkle serve --with-worker``, in place of all the others."""
    start_broker: Callable[[], Proc] | None = None
    struck_at: float = 0.0
    """From here recovery is measured."""
    in_flight: frozenset[str] = frozenset()
    """Tasks that were RUNNING just after the fault struck: what a dead worker held is still so."""

    def need(self, process: Proc | None) -> Proc:
        """A part that this world has."""
        assert process is not None
        return process

    def struck(self) -> None:
        """The fault has struck, or a frozen part goes on: time runs from here."""
        self.struck_at = time.monotonic()
        self.in_flight = self.in_flight | running_tasks(self.stack)

    def freeze(self, *pids: int) -> None:
        """Stop those that will be killed and note what they run: once they are dead it is handed out again at once."""
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGSTOP)
        self.in_flight = self.in_flight | running_tasks(self.stack)

    def begin(self) -> None:
        """Start everything."""
        self.broker = (self.start_broker or self.stack.broker)()
        self.relay = self.stack.relay()
        self.worker = self.stack.worker()


Fault = Callable[[World], None]


def worker_child(world: World) -> None:
    """``kill -9`` of one child; Celery's parent starts another."""
    worker = world.need(world.worker)
    child = world.rng.choice(worker.children())
    world.freeze(child)
    os.kill(child, signal.SIGKILL)
    world.struck()


def worker_parent(world: World) -> None:
    """``kill -9`` of the parent alone; a new worker is started."""
    worker = world.need(world.worker)
    children = worker.children()
    world.freeze(worker.pid, *children)
    worker.kill()
    for child in children:
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, signal.SIGCONT)
    world.struck()
    world.worker = world.stack.worker()
    wait_for_end(children)


def worker_group(world: World) -> None:
    """``kill -9`` of parent and children at once; a new worker is started."""
    worker = world.need(world.worker)
    world.freeze(worker.pid, *worker.children())
    worker.kill_group()
    world.struck()
    world.worker = world.stack.worker()


def relay(world: World) -> None:
    """``kill -9`` of the relay; a new one is started."""
    world.need(world.relay).kill()
    world.struck()
    world.relay = world.stack.relay()


def broker(world: World) -> None:
    """``kill -9`` of the broker; it is started again on the same data, or, where it keeps none, empty."""
    world.need(world.broker).kill_group()
    world.struck()
    world.broker = (world.start_broker or world.stack.broker)()


def broker_frozen(world: World) -> None:
    """SIGSTOP of the broker for three seconds."""
    family = [world.need(world.broker).pid, *world.need(world.broker).children()]
    for pid in family:
        os.kill(pid, signal.SIGSTOP)
    try:
        time.sleep(FREEZE_SECONDS)  # the fault is that nothing happens for so long
    finally:
        for pid in family:
            os.kill(pid, signal.SIGCONT)
    world.struck()


def disk_full(world: World) -> None:
    """The file system of the data folder has no byte left for two seconds."""
    ballast = world.stack.data_dir / "ballast"
    try:
        _fill(ballast)
        time.sleep(FULL_SECONDS)  # the fault is that nothing can be written for so long
    finally:
        ballast.unlink(missing_ok=True)
    world.struck()


def _fill(path: Path) -> None:
    """Write until not a byte more goes onto the disk."""
    size = 65_536
    file = os.open(path, os.O_WRONLY | os.O_CREAT, 0o600)
    try:
        while size:
            try:
                os.write(file, b"\0" * size)
            except OSError:
                size //= 2
    finally:
        os.close(file)


def deploy(world: World) -> None:
    """A new worker starts, the old one gets SIGTERM."""
    _replace(world, signal.SIGTERM)


def deploy_quit(world: World) -> None:
    """A new worker starts, the old one gets SIGQUIT."""
    _replace(world, signal.SIGQUIT)


def _replace(world: World, sig: int) -> None:
    old = world.need(world.worker)
    owners = frozenset(owner.id for owner in world.stack.ledger.owners("worker"))
    world.worker = world.stack.worker()
    world.struck()
    # What the old worker holds until its end is what it may have to hand back; it claims nothing new by then.
    over = threading.Event()
    held: set[str] = set()

    def watch() -> None:
        while not over.is_set():
            held.update(running_tasks(world.stack, owners))

    watching = threading.Thread(target=watch, name="watch the old worker")
    watching.start()
    try:
        old.stop(sig)
    finally:
        over.set()
        watching.join()
    world.in_flight |= held


def two_versions(world: World) -> None:
    """The newer of two workers is killed; the older one knows only some of the tasks."""
    newer = world.need(world.beside)
    world.freeze(newer.pid, *newer.children())
    newer.kill_group()
    world.struck()
    world.beside = world.stack.worker(concurrency=1)


def server(world: World) -> None:
    """``kill -9`` of ``sparkle serve --with-worker``: gateway, broker, relay, beat and worker at once."""
    server = world.need(world.server)
    world.freeze(server.pid, *server.children())
    server.kill_group()
    world.struck()
    world.server = start_server(world.stack)


def nothing(world: World) -> None:
    """No fault: what the others are compared with."""
    world.struck()


FAULTS: dict[str, Fault] = {
    "nothing": nothing,
    "worker-child": worker_child,
    "worker-parent": worker_parent,
    "worker-group": worker_group,
    "relay": relay,
    "server": server,
    "broker": broker,
    "broker-memory": broker,
    "broker-frozen": broker_frozen,
    "disk-full": disk_full,
    "deploy-term": deploy,
    "deploy-quit": deploy_quit,
    "two-versions": two_versions,
    FAILURES: nothing,
}
"""By name. ``broker-memory``: an external Redis that keeps nothing on disk; ``failures``: the tasks themselves fail."""


def running_tasks(stack: Stack, owners: frozenset[str] | None = None) -> frozenset[str]:
    """Ids of the tasks that are RUNNING (for one of ``owners``)."""
    with stack.ledger.read() as connection:
        rows = connection.execute(text("SELECT id, lease_owner FROM sparkle_task WHERE state = 'running'"))
        return frozenset(row[0] for row in rows if owners is None or row[1] in owners)


def start_server(stack: Stack) -> Proc:
    """``sparkle serve --with-worker``, its workers announced."""
    before = {owner.id for owner in stack.ledger.owners("worker")}
    argv = [sys.executable, "-m", "sparkle.cli", "serve", "--port", "0", "--with-worker"]
    process = stack.start("server", [*argv, "--upstream", "http://127.0.0.1:9/v1"])
    stack.wait(
        lambda: {owner.id for owner in stack.ledger.owners("worker")} - before,
        "the server's worker is there",
        60.0,
    )
    return process


def redis_in_memory(stack: Stack) -> Callable[[], Proc]:
    """How to start an external Redis that keeps nothing; ``SPARKLE_TASKS__BROKER_URL`` names its socket."""
    program = shutil.which("redis-server") or shutil.which("valkey-server")
    if program is None:
        raise RuntimeError("no redis-server: apt-get install redis-server")
    path = redis_socket(stack.folder)

    def start() -> Proc:
        path.unlink(missing_ok=True)
        argv = [program, "--port", "0", "--unixsocket", str(path), "--save", "", "--appendonly", "no"]
        process = stack.start("redis", [*argv, "--dir", str(stack.folder)])
        stack.wait(path.exists, "redis listens")
        return process

    return start


def redis_socket(folder: Path) -> Path:
    """Where :func:`redis_in_memory` listens."""
    return folder / "redis.sock"


@contextlib.contextmanager
def small_disk(folder: Path) -> Generator[Path]:
    """Mount a small file system on ``folder``.

    Raises:
        RuntimeError: This user may not mount; the message says what may be done.
    """
    folder.mkdir(exist_ok=True)
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={SMALL_DISK}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(
            f"cannot mount a small disk ({done.stderr.strip()}); run as root or inside "
            "`unshare --map-root-user --mount`"
        )
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
