"""The supervisor keeps its children alive, stops them in order, and leaves none behind. Real forks, no sleeps."""

from __future__ import annotations

import logging
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.support.serve import children, is_alive, wait_for_end

from sparkle.errors import ConfigurationError
from sparkle.server.supervisor import Supervisor, bind

SECONDS = 20.0
"""Longest wait for another process before a test fails."""


class Wire:
    """A pipe on which processes report in lines; survives forks."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()
        self._buffer = b""

    def say(self, *words: object) -> None:
        os.write(self._write, " ".join(map(str, words)).encode() + b"\n")

    def hear(self) -> list[str]:
        """The next line's words."""
        deadline = time.monotonic() + SECONDS
        while b"\n" not in self._buffer:
            readable, _, _ = select.select([self._read], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"nothing was heard for {SECONDS} s"
            self._buffer += os.read(self._read, 65536)
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line.decode().split()

    def close(self) -> None:
        os.close(self._read)
        os.close(self._write)


@pytest.fixture
def wire() -> Iterator[Wire]:
    wire = Wire()
    yield wire
    wire.close()


Worker = Callable[[Callable[[], None]], int]


def obedient(wire: Wire, name: str = "worker") -> Worker:
    """Says that it is up, waits for SIGTERM, says that it goes."""

    def run(ready: Callable[[], None]) -> int:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        ready()
        wire.say(name, "up", os.getpid())
        signal.sigwait({signal.SIGTERM})
        wire.say(name, "down", os.getpid())
        return 0

    return run


def stubborn(wire: Wire) -> Worker:
    """Takes no notice of SIGTERM."""

    def run(ready: Callable[[], None]) -> int:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        ready()
        wire.say("stubborn", "up", os.getpid())
        while True:
            signal.pause()

    return run


@contextmanager
def supervised(build: Callable[[], Supervisor]) -> Generator[int]:
    """Run a supervisor in a process of its own; yields its pid, and makes sure that nothing outlives the test."""
    pid = os.fork()
    if pid == 0:
        code = 70
        try:
            code = build().run()
        finally:
            os._exit(code)
    family: set[int] = set()
    try:
        yield pid
    finally:
        family |= set(children(pid))
        try:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
        except (ProcessLookupError, ChildProcessError):
            pass
        for child in family:
            if is_alive(child):
                os.kill(child, signal.SIGKILL)


def exit_code(pid: int) -> int:
    """Wait for a child of this process to end."""
    wait_for_end([pid], SECONDS)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_it_is_ready_once_when_all_workers_are(wire: Wire) -> None:
    def build() -> Supervisor:
        supervisor = Supervisor(drain_seconds=5, on_ready=lambda: wire.say("ready"))
        supervisor.add_worker("one", obedient(wire))
        supervisor.add_worker("two", obedient(wire))
        return supervisor

    with supervised(build) as pid:
        heard = [wire.hear()[:2] for _ in range(3)]
        assert sorted(heard) == [["ready"], ["worker", "up"], ["worker", "up"]]
        os.kill(pid, signal.SIGTERM)
        assert [wire.hear()[1] for _ in range(2)] == ["down", "down"]
        assert exit_code(pid) == 0


@pytest.mark.parametrize("sig", [signal.SIGTERM, signal.SIGINT])
def test_a_stop_signal_ends_it_with_code_0_and_says_so_first(wire: Wire, sig: signal.Signals) -> None:
    def build() -> Supervisor:
        supervisor = Supervisor(drain_seconds=5, on_stop=lambda: wire.say("stopping"))
        supervisor.add_worker("one", obedient(wire))
        return supervisor

    with supervised(build) as pid:
        assert wire.hear()[1] == "up"
        os.kill(pid, sig)
        assert [wire.hear()[0], wire.hear()[1]] == ["stopping", "down"]
        assert exit_code(pid) == 0


def test_a_killed_worker_is_replaced_and_reported(wire: Wire) -> None:
    def build() -> Supervisor:
        supervisor = Supervisor(
            drain_seconds=5,
            on_ready=lambda: wire.say("ready"),
            on_child_exit=lambda child: wire.say("exit", child),
        )
        supervisor.add_worker("one", obedient(wire))
        return supervisor

    with supervised(build) as pid:
        first = {tuple(wire.hear()) for _ in range(2)}
        victim = next(int(words[2]) for words in first if len(words) == 3)
        os.kill(victim, signal.SIGKILL)
        assert wire.hear() == ["exit", str(victim)]
        name, state, successor = wire.hear()
        assert (name, state) == ("worker", "up")
        assert int(successor) != victim
        assert children(pid) == [int(successor)]
        os.kill(pid, signal.SIGTERM)
        assert exit_code(pid) == 0


def test_a_worker_that_dies_before_the_server_was_ready_ends_the_server(wire: Wire) -> None:
    def build() -> Supervisor:
        supervisor = Supervisor(drain_seconds=5, on_ready=lambda: wire.say("ready"))
        supervisor.add_worker("one", obedient(wire))
        supervisor.add_worker("two", lambda ready: 3)
        return supervisor

    with supervised(build) as pid:
        assert exit_code(pid) == 1
        assert children(pid) == []


def test_a_worker_that_raises_ends_with_a_logged_failure_not_in_the_parents_code(
    tmp_path: Path,
) -> None:
    def broken(ready: Callable[[], None]) -> int:
        raise RuntimeError("broken on purpose")

    def build() -> Supervisor:
        logging.basicConfig(filename=tmp_path / "log", force=True)
        supervisor = Supervisor(drain_seconds=5)
        supervisor.add_worker("one", broken)
        return supervisor

    with supervised(build) as pid:
        assert exit_code(pid) == 1
    assert "broken on purpose" in (tmp_path / "log").read_text()


def test_a_worker_that_does_not_stop_in_time_is_killed(wire: Wire, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sparkle.server.supervisor._KILL_GRACE", 0.05)

    def build() -> Supervisor:
        supervisor = Supervisor(drain_seconds=0.05)
        supervisor.add_worker("one", stubborn(wire))
        return supervisor

    with supervised(build) as pid:
        worker = int(wire.hear()[2])
        os.kill(pid, signal.SIGTERM)
        assert exit_code(pid) == 0
        assert not is_alive(worker)


def test_helpers_outlive_the_workers_they_serve(wire: Wire, tmp_path: Path) -> None:
    """The local model answers until the last running call has ended."""
    script = (
        "import os, signal, sys\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "out = open(sys.argv[1], 'w')\n"
        "print('helper up', os.getpid(), file=out, flush=True)\n"
        "signal.sigwait({signal.SIGTERM})\n"
        "print('helper down', file=out, flush=True)\n"
    )
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)

    def build() -> Supervisor:
        supervisor = Supervisor(drain_seconds=5)
        argv = [sys.executable, "-c", script, str(fifo)]
        supervisor.add_command("helper", argv, dict(os.environ), str(tmp_path / "helper.log"))
        supervisor.add_worker("one", obedient(wire))
        return supervisor

    with supervised(build) as pid:
        assert select.select([reader], [], [], SECONDS)[0]
        assert os.read(reader, 100).startswith(b"helper up")
        assert wire.hear()[1] == "up"
        os.kill(pid, signal.SIGTERM)
        assert wire.hear()[1] == "down"
        # The worker reported its end before the helper was even told.
        assert exit_code(pid) == 0
        assert os.read(reader, 100) == b"helper down\n"
    os.close(reader)


def test_a_helper_that_dies_is_started_again(wire: Wire, tmp_path: Path) -> None:
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDWR | os.O_NONBLOCK)
    script = "import os, signal, sys\nopen(sys.argv[1], 'w').write(f'{os.getpid()}\\n')\nsignal.pause()\n"

    def build() -> Supervisor:
        supervisor = Supervisor(drain_seconds=5)
        argv = [sys.executable, "-c", script, str(fifo)]
        supervisor.add_command("helper", argv, dict(os.environ), str(tmp_path / "helper.log"))
        supervisor.add_worker("one", obedient(wire))
        return supervisor

    with supervised(build):
        assert select.select([reader], [], [], SECONDS)[0]
        first = int(os.read(reader, 100))
        assert wire.hear()[1] == "up"
        os.kill(first, signal.SIGKILL)
        assert select.select([reader], [], [], SECONDS)[0]
        assert int(os.read(reader, 100)) != first
    os.close(reader)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_helpers_are_stopped_stage_by_stage(wire: Wire, tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = f'trap "echo $0 down >> {told}; exit 0" TERM; echo $0 up >> {told}; while :; do sleep 0.02; done'

    def build() -> Supervisor:
        supervisor = Supervisor(drain_seconds=5)
        for stage in (2, 0, 1):
            argv = ["bash", "-c", script, f"stage{stage}"]
            supervisor.add_command(f"helper {stage}", argv, dict(os.environ), None, stage=stage)
        supervisor.add_worker("one", obedient(wire))
        return supervisor

    with supervised(build) as pid:
        wire.hear()
        deadline = time.monotonic() + SECONDS
        while not told.exists() or told.read_text().count("up") < 3:
            assert time.monotonic() < deadline, "the helpers did not start"
            time.sleep(0.01)  # waits for other processes, not for time to pass
        os.kill(pid, signal.SIGTERM)
        assert exit_code(pid) == 0
    down = [line.split()[0] for line in told.read_text().splitlines() if line.endswith("down")]
    assert down == ["stage0", "stage1", "stage2"]


def test_no_child_outlives_a_killed_supervisor(wire: Wire, tmp_path: Path) -> None:
    def build() -> Supervisor:
        supervisor = Supervisor(drain_seconds=5)
        argv = [sys.executable, "-c", "import signal; signal.pause()"]
        supervisor.add_command("helper", argv, dict(os.environ), str(tmp_path / "helper.log"))
        supervisor.add_worker("one", obedient(wire))
        return supervisor

    with supervised(build) as pid:
        worker = int(wire.hear()[2])
        family = children(pid)
        assert len(family) == 2
        os.kill(pid, signal.SIGKILL)
        assert wire.hear() == ["worker", "down", str(worker)]
        wait_for_end(family, SECONDS)


def test_a_taken_port_is_an_error_also_for_several_workers() -> None:
    (first,) = bind("127.0.0.1", 0, 1)
    port = first.getsockname()[1]
    for count in (1, 2):
        with pytest.raises(ConfigurationError, match=f"cannot listen on 127.0.0.1:{port}"):
            bind("127.0.0.1", port, count)
    first.close()


def test_several_sockets_share_one_port() -> None:
    sockets = bind("127.0.0.1", 0, 3)
    assert len({sock.getsockname() for sock in sockets}) == 1
    with pytest.raises(ConfigurationError):
        bind("127.0.0.1", sockets[0].getsockname()[1], 2)
    for sock in sockets:
        sock.close()


def test_an_address_that_is_not_ours_is_an_error() -> None:
    with pytest.raises(ConfigurationError, match=r"cannot listen on 192\.0\.2\.1"):
        bind("192.0.2.1", 0, 1)


@pytest.mark.skipif(not socket.has_ipv6, reason="needs IPv6")
def test_an_ipv6_address_can_be_listened_on() -> None:
    try:
        (sock,) = bind("::1", 0, 1)
    except ConfigurationError:
        pytest.skip("this machine has no IPv6 loopback")
    assert sock.family == socket.AF_INET6
    sock.close()
