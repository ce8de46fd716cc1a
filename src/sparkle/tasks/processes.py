"""The processes of long tasks, each as a function that runs until it is told to stop: relay, beat, worker."""

from __future__ import annotations

import contextlib
import logging
import os
import random
import signal
import socket
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from sparkle.clock import SystemClock
from sparkle.errors import MissingExtraError, SparkleError
from sparkle.settings import Settings
from sparkle.tasks.broker_url import BrokerTarget, broker_target
from sparkle.tasks.queues import all_queues

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

log = logging.getLogger("sparkle.tasks")

BUILT_IN_MODULES: tuple[str, ...] = ("sparkle.tasks.celery_tasks",)
"""The tasks that come with Sparkle."""


def open_ledger(settings: Settings) -> Ledger:
    """The ledger that the settings name.

    Raises:
        MissingExtraError: The extra ``tasks`` is not installed.
        LedgerUnavailableError: It does not answer.
        LedgerSchemaError: Its tables are missing or of another version.
    """
    try:
        # Not by way of `sparkle.tasks.tasks`: a relay or worker has no use for SQLAlchemy's object mapper (10 MB).
        from sparkle.tasks.ledger import Ledger
    except ImportError as exc:
        if (exc.name or "").partition(".")[0] in ("sqlalchemy", "alembic"):
            raise MissingExtraError("tasks", "the ledger of long tasks") from None
        raise
    tasks = settings.tasks
    return Ledger.open(
        tasks.database_url or settings.data_dir,
        synchronous=tasks.sqlite_synchronous,
        max_crashes=tasks.max_crashes,
    )


def prepare_ledger(settings: Settings) -> None:
    """Make or upgrade an SQLite ledger in a process of its own; whatever goes wrong there, opening it says.

    Alembic takes 15 MB that a process which lives for months would never use again. For a process with one thread.
    """
    if settings.tasks.database_url.startswith("postgres"):
        return  # migrated by hand
    from sparkle.tasks.maintenance import ledger_engine

    try:
        with ledger_engine(settings) as engine:
            from sparkle.tasks.ledger.migrate import is_current

            if is_current(engine):
                return
    except SparkleError:
        return
    pid = os.fork()
    if pid == 0:
        try:
            open_ledger(settings).close()
        finally:
            os._exit(0)  # whatever happened, this copy of the process must not go on
    os.waitpid(pid, 0)


def target_of(settings: Settings) -> BrokerTarget:
    """The broker that the settings name.

    Raises:
        ConfigurationError: No broker has such an address.
    """
    return broker_target(settings.tasks.broker_url, settings.data_dir)


def set_up_process(settings: Settings) -> None:
    """Logging to standard error, files for their owner alone."""
    logging.basicConfig(
        level=settings.monitoring.log_level.upper(),
        format="%(asctime)s %(levelname)-7s %(name)s[%(process)d] %(message)s",
        stream=sys.stderr,
    )
    for chatty in ("celery", "kombu", "amqp", "alembic", "asyncio"):
        logging.getLogger(chatty).setLevel(max(logging.WARNING, logging.getLogger().level))
    os.umask(0o077)
    settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)


def stop_on_signals() -> threading.Event:
    """An event that SIGTERM, SIGINT and SIGQUIT set. For the main thread."""
    stop = threading.Event()

    def told(signum: int, frame: FrameType | None) -> None:
        stop.set()

    for sig in (signal.SIGTERM, signal.SIGINT, signal.SIGQUIT):
        signal.signal(sig, told)
    return stop


def process_id(kind: str) -> str:
    """An id of this process for the ledger: readable, and no other process ever has it."""
    from uuid import uuid4

    return f"{kind}:{socket.gethostname()[:40]}:{os.getpid()}:{uuid4().hex[:12]}"


def facts() -> dict[str, object]:
    """What people want to know of a process."""
    from importlib.metadata import version

    from sparkle.tasks.burial import mark

    return {"host": socket.gethostname(), "pid": os.getpid(), "version": version("sparkle-llm"), **mark()}


def run_relay(settings: Settings, *, report: Callable[[bytes], None] | None = None) -> int:
    """Run a relay until a signal; returns the exit code.

    Args:
        settings: Everything configurable.
        report: Takes the metrics, besides the file in the data folder that the gateway of this machine passes on.

    Raises:
        SparkleError: The ledger or the broker is not configured as it must be.
    """
    from sparkle.tasks.carrier import Carrier
    from sparkle.tasks.doorbell import open_bell
    from sparkle.tasks.ledger_metrics import write_file
    from sparkle.tasks.publisher import Publisher
    from sparkle.tasks.relay import Relay

    set_up_process(settings)
    stop = stop_on_signals()
    clock, rng = SystemClock(), random.Random()  # noqa: S311  for jitter, not for secrets
    owner = process_id("relay")

    def reported(metrics: bytes) -> None:
        with contextlib.suppress(
            OSError
        ):  # a full disk costs the figures, which age by themselves, not the relay
            write_file(settings.data_dir, metrics)
        if report is not None:
            report(metrics)

    prepare_ledger(settings)
    ledger = open_ledger(settings)
    bell = open_bell(ledger, owner)
    try:
        carrier = Carrier(
            ledger,
            Publisher(target_of(settings)),
            queues=all_queues(settings.tasks.queues),
            window=settings.tasks.window,
            poll_seconds=settings.tasks.poll_seconds,
            clock=clock,
            rng=rng,
        )
        Relay(
            ledger,
            carrier,
            settings.tasks,
            owner=owner,
            bell=bell,
            clock=clock,
            rng=rng,
            info=facts(),
            report=reported,
        ).run(stop)
    finally:
        bell.close()
        ledger.close()
    return 0


def _load_tasks(settings: Settings) -> None:
    """Import the modules with tasks; like `python -m`, also those that stand in the working folder."""
    from sparkle.tasks.registry import load_task_modules

    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    load_task_modules((*BUILT_IN_MODULES, *settings.tasks.modules))


def run_beat(settings: Settings) -> int:
    """Run a beat until a signal; returns the exit code.

    Raises:
        ConfigurationError: A schedule is wrong, or a module with tasks cannot be imported.
        SparkleError: The ledger is not configured as it must be.
    """
    from sparkle.tasks.beat import Beat
    from sparkle.tasks.recurring import all_recurring
    from sparkle.tasks.tasks import Tasks

    set_up_process(settings)
    stop = stop_on_signals()
    prepare_ledger(settings)
    _load_tasks(settings)
    tasks = Tasks(open_ledger(settings), settings.tasks)
    try:
        Beat(
            tasks,
            all_recurring(settings.tasks.schedules),
            settings.tasks,
            owner=process_id("beat"),
            clock=SystemClock(),
            info=facts(),
        ).run(stop)
    finally:
        tasks.close()
    return 0


def run_worker(settings: Settings, *, queues: Sequence[str] = (), concurrency: int = 0) -> int:
    """Run a worker until a signal; returns the exit code.

    Args:
        settings: Everything configurable.
        queues: Queues to serve, the first before the next; empty: all.
        concurrency: Number of children; 0: what the settings say.

    Raises:
        ConfigurationError: A module with tasks cannot be imported.
        SparkleError: The ledger or the broker is not configured as it must be.
    """
    from sparkle.tasks.registry import registry
    from sparkle.tasks.worker.parent import run_worker as run

    set_up_process(settings)
    prepare_ledger(settings)
    _load_tasks(settings)
    open_ledger(settings).close()  # what is wrong with it is said here once, not by every child
    return run(
        target_of(settings),
        settings.tasks,
        registry,
        lambda: open_ledger(settings),
        queues=queues or all_queues(settings.tasks.queues),
        concurrency=concurrency or settings.tasks.worker_concurrency or os.cpu_count() or 1,
    )
