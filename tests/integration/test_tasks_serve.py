"""``sparkle serve --with-worker``: gateway, broker, relay, beat and worker as one family."""

from __future__ import annotations

import contextlib
import os
import signal
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from tests.support.serve import ServerProcess, descendants, serving, wait_for_end
from tests.support.upstream import ScriptedUpstream

from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.broker import broker_socket
from sparkle.tasks.calls import TaskCall
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.states import TaskState
from sparkle.tasks.tasks import Tasks

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, uses the embedded broker")

SECONDS = 60.0
ENVIRON = {
    "SPARKLE_TASKS__WORKER_CONCURRENCY": "1",
    "SPARKLE_TASKS__LEASE_SECONDS": "1.5",
    "SPARKLE_TASKS__HEARTBEAT_SECONDS": "0.3",
    "SPARKLE_TASKS__SHUTDOWN_SECONDS": "3",
}


@pytest.fixture
def request_close() -> Iterator[Callable[[Callable[[], None]], None]]:
    """Takes what has to be called at the end, however the test ends."""
    with contextlib.ExitStack() as stack:

        def remember(close: Callable[[], None]) -> None:
            stack.callback(close)

        yield remember


def until(condition: Callable[[], bool], server: ServerProcess) -> None:
    give_up = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < give_up, server.output
        time.sleep(0.02)  # waits for other processes, not for time to pass


def finished(tasks: Tasks, record: TaskRecord, server: ServerProcess) -> TaskRecord:
    until(lambda: tasks.ledger.get(record.id).state.finished, server)
    return tasks.ledger.get(record.id)


def command_lines(pids: list[int]) -> dict[int, str]:
    found: dict[int, str] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            found[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()
    return found


async def test_one_command_runs_all_and_each_part_comes_back_when_it_is_killed(
    tmp_path: Path, up: ScriptedUpstream, request_close: Callable[[Callable[[], None]], None]
) -> None:
    with serving(tmp_path, upstream=up.url, environ=ENVIRON, arguments=("--with-worker",)) as server:
        tasks = Tasks(Ledger.open(server.data_dir), TasksSettings())
        request_close(tasks.close)

        def run() -> None:
            (record,) = tasks.schedule([TaskCall("health_check")])
            assert finished(tasks, record, server).state is TaskState.SUCCEEDED

        run()
        killed: set[int] = set()
        for part in ("valkey-server", " relay ", " worker "):
            lines = command_lines(descendants(server.pid))
            victim = next(pid for pid, line in lines.items() if part in line)
            killed |= {victim, *descendants(victim)}
            os.kill(victim, signal.SIGKILL)
            wait_for_end([victim])
            run()

        def shown() -> bool:
            with urllib.request.urlopen(f"{server.url}/metrics", timeout=20) as response:
                return b'sparkle_task_runs_total{name="health_check"}' in response.read()

        until(shown, server)
        family = descendants(server.pid)
        assert server.stop() == 0
        wait_for_end(family)
        # Those that were killed could not say goodbye; the others have.
        assert {owner.info["pid"] for owner in tasks.ledger.owners() if owner.kind != "schedule"} <= killed


async def test_a_killed_server_leaves_none_of_them_behind(
    tmp_path: Path, up: ScriptedUpstream, request_close: Callable[[Callable[[], None]], None]
) -> None:
    with serving(tmp_path, upstream=up.url, environ=ENVIRON, arguments=("--with-worker",)) as server:
        until(broker_socket(server.data_dir).exists, server)
        ledger = Ledger.open(server.data_dir)
        request_close(ledger.close)
        until(lambda: {owner.kind for owner in ledger.owners()} >= {"relay", "beat", "worker"}, server)
        family = descendants(server.pid)
        server.signal(signal.SIGKILL)
        wait_for_end(family)
