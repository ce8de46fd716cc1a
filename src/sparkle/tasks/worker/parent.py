"""The worker's parent process: a Celery worker whose children run ``sparkle.run``, and the warden over them."""

# Celery has no type stubs; its objects are Any here, behind a typed front.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false, reportMissingTypeStubs=false
# pyright: reportUntypedBaseClass=false, reportUnknownParameterType=false, reportUnknownArgumentType=false

from __future__ import annotations

import logging
import os
import random
import signal
import socket
import threading
import time
from collections.abc import Callable, Sequence
from types import FrameType
from typing import TYPE_CHECKING, Any

from sparkle.clock import SystemClock
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.broker_url import BrokerTarget
from sparkle.tasks.celery_app import make_celery
from sparkle.tasks.messages import RUN
from sparkle.tasks.registry import TaskRegistry
from sparkle.tasks.routing import edition_of, queues_read
from sparkle.tasks.worker.board import Board

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger
    from sparkle.tasks.worker.child import Child

log = logging.getLogger("sparkle.tasks.worker")

_WARDEN_SECONDS = 0.2
_KILL_AFTER_SECONDS = 6.0
"""After the stop's deadline: children that are still there are killed, their leases end by themselves."""


def run_worker(
    target: BrokerTarget,
    settings: TasksSettings,
    registry: TaskRegistry,
    open_ledger: Callable[[], Ledger],
    *,
    queues: Sequence[str],
    concurrency: int,
    hostname: str | None = None,
) -> int:
    """Run a worker in this process until SIGTERM, SIGINT or SIGQUIT; returns the exit code.

    SIGTERM and SIGINT: running tasks get ``shutdown_seconds`` to end, then they are handed back. SIGQUIT: they are
    handed back at once. Nothing is lost in either case, and no attempt is counted.

    Args:
        target: The broker.
        settings: Limits and leases.
        registry: The tasks, already loaded: children inherit them.
        open_ledger: Called in each child after the fork.
        queues: Queues to consume, the first served first.
        concurrency: Number of children.
        hostname: Celery's node name; ``None``: from the host and process id, so that several workers may share a host.

    Raises:
        MissingExtraError: Celery is not installed.
    """
    _silence_root_warning()
    edition = edition_of((task.name for task in registry), queues)
    app = make_celery(target, queues_read(queues, edition))
    board = Board(concurrency)
    _register(app, board, settings, registry, open_ledger, queues, edition)
    worker = _worker_class()(
        app=app,
        hostname=hostname or f"sparkle-{os.getpid()}@{socket.gethostname()}",
        concurrency=concurrency,
        pool="prefork",
        loglevel="WARNING",
        without_gossip=True,
        without_mingle=True,
        without_heartbeat=True,
        quiet=True,
    )
    stopping = _StopSignals(board, settings)
    warden = _Warden(board, lambda: _children(worker))
    worker.sparkle_on_start = lambda: (stopping.install(), warden.start())
    try:
        worker.start()
    finally:
        warden.stop()
        board.close()
    return 0 if worker.exitcode in (None, 0) else int(worker.exitcode)


def _silence_root_warning() -> None:
    """Celery warns whoever runs as root, because pickled messages could run code. These are JSON with ids."""
    import warnings

    from celery.platforms import SecurityWarning

    warnings.filterwarnings("ignore", category=SecurityWarning)


def _worker_class() -> Any:
    from celery.apps.worker import Worker

    class SparkleWorker(Worker):
        sparkle_on_start: Callable[[], object]

        def install_platform_tweaks(self, worker: Any) -> None:
            """Our signals instead of Celery's: its cold shutdown would drop what runs, its warm one waits for ever."""
            self.sparkle_on_start()

        def setup_logging(self, colorize: bool | None = None) -> Any:
            """Logging is set up by whoever started us."""
            return True

    return SparkleWorker


def _register(
    app: Any,
    board: Board,
    settings: TasksSettings,
    registry: TaskRegistry,
    open_ledger: Callable[[], Ledger],
    queues: Sequence[str],
    edition: str,
) -> None:
    from celery import signals

    mine: list[Child] = []  # filled in each child after the fork

    def begin(**_: Any) -> None:
        from billiard import process

        from sparkle.tasks.worker.child import Child

        child = Child(
            open_ledger(),
            registry,
            settings,
            board=board,
            index=int(getattr(process.current_process(), "index", 0)),
            clock=SystemClock(),
            rng=random.Random(),  # noqa: S311  for jitter, not for secrets
            queues=queues,
            edition=edition,
        )
        child.start()
        mine.append(child)

    def end(**_: Any) -> None:
        for child in mine:
            child.close()

    def run(ids: list[str]) -> None:
        mine[0].handle(ids)

    signals.worker_process_init.connect(begin, weak=False)
    signals.worker_process_shutdown.connect(end, weak=False)
    app.task(name=RUN, ignore_result=True, typing=False)(run)
    app.finalize()


def _children(worker: Any) -> list[int]:
    pool = getattr(worker.pool, "_pool", None)
    return [process.pid for process in pool._pool] if pool is not None else []


class _StopSignals:
    """What SIGTERM, SIGINT and SIGQUIT mean."""

    def __init__(self, board: Board, settings: TasksSettings) -> None:
        self._board = board
        self._grace = settings.shutdown_seconds

    def install(self) -> None:
        for sig in (signal.SIGTERM, signal.SIGINT):
            signal.signal(sig, lambda signum, frame: self._stop(self._grace))
        signal.signal(signal.SIGQUIT, lambda signum, frame: self._stop(0.0))
        signal.signal(signal.SIGHUP, signal.SIG_IGN)

    def _stop(self, grace: float, frame: FrameType | None = None) -> None:
        from celery.worker import state

        deadline = time.monotonic() + grace
        # A second signal may shorten the time, never lengthen it.
        if self._board.stop_at == 0.0 or deadline < self._board.stop_at:
            self._board.stop_at = deadline
        state.should_stop = 0  # always Celery's warm way: the children end by themselves, in time


class _Warden:
    """A thread that kills children whose time is up, and says once what a stop waits for.

    It touches no database: see :mod:`.board`.
    """

    def __init__(self, board: Board, children: Callable[[], list[int]]) -> None:
        self._board = board
        self._children = children
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, name="warden", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over.set()
        if self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        said = False
        while not self._over.wait(_WARDEN_SECONDS):
            now = time.monotonic()
            if self._board.stop_at and not said:
                said = True
                self._say_stop(max(self._board.stop_at - now, 0.0))
            for index in range(self._board.slots):
                self._judge(index, now)
            if self._board.stop_at and now > self._board.stop_at + _KILL_AFTER_SECONDS:
                for pid in self._children():
                    _kill(pid)

    def _say_stop(self, left: float) -> None:
        running = sum(bool(self._board.slot(index).read().kill_at) for index in range(self._board.slots))
        if running:
            log.warning(
                "stopping: %d of %d worker children still run tasks; what has not ended in %.0f s is handed back",
                running,
                self._board.slots,
                left,
            )

    def _judge(self, index: int, now: float) -> None:
        slot = self._board.slot(index)
        seen = slot.read()
        if not seen.pid or seen.killed or not 0.0 < seen.kill_at < now:
            return
        if slot.read() != seen:
            return  # it has just gone on to another task
        log.error(
            "task %s does not end; killing worker child %d, which runs it (hard limit)",
            seen.task_id,
            seen.pid,
        )
        slot.mark_killed()
        _kill(seen.pid)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
