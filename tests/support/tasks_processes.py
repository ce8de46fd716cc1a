"""Broker, relays, workers and beats as real processes over one ledger, and ways to harm them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from tests.support.serve import clean_environ, descendants, wait_for_end

from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.broker import broker_answers, broker_command
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.record import TaskFilter, TaskRecord
from sparkle.tasks.states import FINISHED, TaskState
from sparkle.tasks.tasks import Tasks

ROOT = Path(__file__).resolve().parents[2]
SAMPLE = "tests.support.tasks_sample"
START_SECONDS = 60.0
WAIT_SECONDS = 40.0
QUICK = {
    "SPARKLE_TASKS__MODULES": f'["{SAMPLE}"]',
    "SPARKLE_TASKS__LEASE_SECONDS": "1.5",
    "SPARKLE_TASKS__HEARTBEAT_SECONDS": "0.3",
    "SPARKLE_TASKS__POLL_SECONDS": "0.1",
    "SPARKLE_TASKS__SHUTDOWN_SECONDS": "5",
}
"""Leases short enough that a test sees them end."""

T = TypeVar("T")


class Proc:
    """One process of the stack."""

    def __init__(self, name: str, argv: Sequence[str], environ: Mapping[str, str], log: Path) -> None:
        self.name = name
        self.log = log
        with log.open("ab") as out:
            self.process = subprocess.Popen(
                list(argv), env=dict(environ), cwd=ROOT, stdout=out, stderr=out, start_new_session=True
            )

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    def children(self) -> list[int]:
        """Process ids of all that descend from it."""
        return descendants(self.pid)

    def send(self, sig: int) -> None:
        os.kill(self.pid, sig)

    def kill(self) -> None:
        """``kill -9`` of this one process."""
        if self.alive:
            self.process.kill()
        self.process.wait()

    def kill_group(self) -> None:
        """``kill -9`` of the process and all that descend from it, at once."""
        family = [self.pid, *self.children()]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
        wait_for_end(family[1:])

    def stop(self, sig: int = signal.SIGTERM, timeout: float = WAIT_SECONDS) -> int:
        """Ask it to end; whoever is still there after ``timeout`` is killed and fails the test."""
        if not self.alive:
            return self.process.wait()
        family = [self.pid, *self.children()]
        for wake in (signal.SIGCONT, sig):
            self.send(wake)
        try:
            code = self.process.wait(timeout)
            wait_for_end(family[1:], timeout)
        except (subprocess.TimeoutExpired, AssertionError):
            self.kill_group()
            raise AssertionError(
                f"{self.name} did not stop in {timeout} s:\n{self.log.read_text(errors='replace')}"
            ) from None
        return code


class Stack:
    """A ledger in ``folder/data`` and the processes around it. Made by :func:`stack`."""

    def __init__(self, folder: Path, environ: Mapping[str, str]) -> None:
        self.folder = folder
        self.data_dir = folder / "data"
        self.data_dir.mkdir(mode=0o700, exist_ok=True)
        self.environ = clean_environ(
            {**QUICK, "SPARKLE_DATA_DIR": str(self.data_dir), "PYTHONPATH": str(ROOT), **environ}
        )
        self.processes: list[Proc] = []
        url = environ.get("SPARKLE_TASKS__DATABASE_URL", "")
        self.ledger = Ledger.open(url or self.data_dir)
        self.tasks = Tasks(self.ledger, TasksSettings())

    def start(self, name: str, argv: Sequence[str]) -> Proc:
        """Start any process that belongs to the stack."""
        log = self.folder / f"{name}-{len(self.processes)}.log"
        process = Proc(name, argv, self.environ, log)
        self.processes.append(process)
        return process

    def broker(self) -> Proc:
        """The embedded broker, answering."""
        process = self.start("broker", broker_command(self.data_dir))
        self.wait(lambda: broker_answers(self.data_dir), "the broker answers")
        return process

    def relay(self) -> Proc:
        """A relay that has announced itself."""
        return self._announced("relay", 1)

    def worker(self, *arguments: str, concurrency: int = 2) -> Proc:
        """A worker whose children have announced themselves."""
        return self._announced("worker", concurrency, f"--concurrency={concurrency}", *arguments)

    def beat(self) -> Proc:
        """A beat that has announced itself."""
        return self._announced("beat", 1)

    def _announced(self, command: str, count: int, *arguments: str) -> Proc:
        before = {owner.id for owner in self.ledger.owners(command)}
        process = self.start(command, [sys.executable, "-m", "sparkle.cli", command, *arguments])

        def there() -> bool:
            assert process.alive, f"{command} ended at its start:\n{process.log.read_text(errors='replace')}"
            return len({owner.id for owner in self.ledger.owners(command)} - before) >= count

        self.wait(there, f"{command} is there", START_SECONDS)
        return process

    def wait(self, condition: Callable[[], T], what: str, seconds: float = WAIT_SECONDS) -> T:
        """Return what ``condition`` returns once it is true; other processes make it so."""
        give_up = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < give_up, f"waited {seconds} s in vain until {what}\n{self.report()}"
            time.sleep(0.01)  # waits for other processes, not for time to pass
        return value

    def ended(self, task: TaskRecord | str, seconds: float = WAIT_SECONDS) -> TaskRecord:
        """The task's record once it is finished."""
        id = task if isinstance(task, str) else task.id

        def finished() -> TaskRecord | None:
            record = self.ledger.get(id)
            return record if record.state in FINISHED else None

        record = self.wait(finished, f"task {id} is finished", seconds)
        assert record is not None
        return record

    def reaches(self, task: TaskRecord, *states: TaskState, seconds: float = WAIT_SECONDS) -> TaskRecord:
        """The task's record once it is in one of these states."""

        def there() -> TaskRecord | None:
            record = self.ledger.get(task.id)
            return record if record.state in states else None

        record = self.wait(there, f"task {task.id} is {'/'.join(states)}", seconds)
        assert record is not None
        return record

    def states(self) -> dict[str, int]:
        """Number of tasks by state."""
        found: dict[str, int] = {}
        for count in self.ledger.counts():
            found[count.state.value] = found.get(count.state.value, 0) + count.tasks
        return found

    def all_ended(self, count: int, seconds: float = WAIT_SECONDS) -> dict[str, int]:
        """Numbers by state once ``count`` tasks are finished and no other is left."""

        def over() -> dict[str, int] | None:
            states = self.states()
            finished = sum(number for state, number in states.items() if TaskState(state) in FINISHED)
            return states if finished == count and sum(states.values()) == count else None

        states = self.wait(over, f"{count} tasks are finished", seconds)
        assert states is not None
        return states

    def report(self) -> str:
        """What a person needs to understand a failure."""
        parts = [f"states: {self.states()}"]
        page = self.ledger.find(TaskFilter(), limit=10)
        parts += [f"{r.name} {r.state} attempt={r.attempt} error={r.error_type}" for r in page.records]
        for process in self.processes:
            parts.append(f"--- {process.name} (alive: {process.alive})")
            parts.append(process.log.read_text(errors="replace")[-2000:])
        return "\n".join(parts)

    def close(self) -> None:
        """End every process, the broker last, and the ledger."""
        failures: list[str] = []
        for process in reversed(self.processes):
            try:
                process.stop()
            except AssertionError as exc:
                failures.append(str(exc))
        self.tasks.close()
        assert not failures, "\n".join(failures)


@contextlib.contextmanager
def stack(folder: Path, **environ: Any) -> Generator[Stack]:
    """A ledger without processes; those started are ended with the block. ``environ``: further ``SPARKLE_*``."""
    made = Stack(folder, {key: str(value) for key, value in environ.items()})
    try:
        yield made
    finally:
        made.close()
