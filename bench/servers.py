"""Starting, watching and ending the servers that are measured: each in a folder of its own, none left behind."""

from __future__ import annotations

import contextlib
import ctypes
import http.client
import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench import machine
from bench.errors import BenchError

_STOP_SECONDS = 8.0
_PASSED_ON = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH")
"""Only these variables reach a server: a proxy or a SPARKLE_* of the caller must not change what is measured."""
_PR_SET_PDEATHSIG = 1
_LIBC = ctypes.CDLL(None)


@dataclass(frozen=True, slots=True)
class Spec:
    """How one system is started.

    Attributes:
        name: Shown in the tables.
        argv: Command; it must serve on ``port``.
        port: Loopback port.
        env: Further environment.
        key: Bearer token that the load presents.
        start_seconds: How long it may take to its first answer.
        ready_path: A page that must answer 200 after the first chat answer; empty: none.
    """

    name: str
    argv: tuple[str, ...]
    port: int
    env: Mapping[str, str] = field(default_factory=dict[str, str])
    key: str = "sk-bench"
    start_seconds: float = 20.0
    ready_path: str = ""


class Server:
    """A running system."""

    def __init__(self, spec: Spec, process: subprocess.Popen[bytes], cold_start: float) -> None:
        self.spec = spec
        self.process = process
        self.cold_start = cold_start
        """Seconds from the start of the process to its first 200 to a chat completion."""

    @property
    def url(self) -> str:
        """Address of its chat completions."""
        return f"http://127.0.0.1:{self.spec.port}/v1/chat/completions"

    def pids(self) -> list[int]:
        """The processes it consists of now."""
        return machine.tree(self.process.pid)


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


def need_tool(name: str, package: str) -> str:
    """Path of a program of the system.

    Raises:
        BenchError: It is missing; the message names the Debian package.
    """
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if path is None:
        raise BenchError(
            f"{name} is not installed; it comes with the Debian package {package}: apt-get install {package}"
        )
    return path


@contextlib.contextmanager
def running(spec: Spec, folder: Path, body: bytes) -> Generator[Server]:
    """Start a system, hand it over once it answered ``body`` with 200, end all its processes afterwards.

    Args:
        spec: What to start.
        folder: Working folder; its output goes to ``server.log`` there.
        body: A chat completion request.

    Raises:
        BenchError: It ended or gave no 200 in time; the message holds the end of its output.
    """
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / "server.log"
    env = {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | dict(spec.env)
    began = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            spec.argv,
            cwd=folder,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
    try:
        _await_first_answer(spec, process, body, log, began + spec.start_seconds)
        server = Server(spec, process, time.perf_counter() - began)
        if spec.ready_path:
            _await_ready(spec, log, began + spec.start_seconds)
        yield server
    finally:
        stop(process)


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a process and all it started: SIGTERM to the first, SIGKILL to whoever is still there after 8 seconds."""
    family = {pid: _started(pid) for pid in machine.tree(process.pid)}
    if process.poll() is None:
        process.terminate()
    deadline = time.monotonic() + _STOP_SECONDS
    while time.monotonic() < deadline:
        process.poll()  # collects it, so that it does not look alive as a zombie
        if not any(_lives(pid, started) for pid, started in family.items()):
            return
        time.sleep(0.01)
    for pid, started in family.items():
        if _lives(pid, started):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
    process.wait(5)


def ask(port: int, body: bytes, key: str = "sk-bench", seconds: float = 10.0) -> tuple[int, bytes]:
    """One chat completion: status and body of the answer. Raises ``OSError`` when there is nobody to answer."""
    return _request(port, "POST", "/v1/chat/completions", body, key, seconds)


def _request(
    port: int, method: str, path: str, body: bytes | None, key: str, seconds: float
) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=seconds)
    try:
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
        connection.request(method, path, body, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except http.client.HTTPException as exc:
        raise ConnectionError(str(exc)) from exc
    finally:
        connection.close()


def _await_first_answer(
    spec: Spec, process: subprocess.Popen[bytes], body: bytes, log: Path, deadline: float
) -> None:
    seen = "no connection"
    while time.perf_counter() < deadline:
        if process.poll() is not None:
            raise BenchError(f"{spec.name} ended with {process.returncode} while starting\n{_tail(log)}")
        try:
            status, answer = ask(spec.port, body, spec.key, max(0.1, deadline - time.perf_counter()))
        except OSError:
            time.sleep(0.005)
            continue
        if status == 200:
            return
        seen = f"{status} {answer[:300].decode(errors='replace')}"
        time.sleep(0.02)
    raise BenchError(f"{spec.name} gave no 200 within {spec.start_seconds:g} s; last: {seen}\n{_tail(log)}")


def _await_ready(spec: Spec, log: Path, deadline: float) -> None:
    while time.perf_counter() < deadline:
        with contextlib.suppress(OSError):
            if _request(spec.port, "GET", spec.ready_path, None, spec.key, 2.0)[0] == 200:
                return
        time.sleep(0.02)
    raise BenchError(
        f"{spec.name}: {spec.ready_path} was not 200 within {spec.start_seconds:g} s\n{_tail(log)}"
    )


def _tail(log: Path, lines: int = 20) -> str:
    text = log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:]
    return "\n".join(f"    | {line}" for line in text)


def _die_with_parent() -> None:
    _LIBC.prctl(
        _PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0
    )  # a benchmark that is killed leaves no server behind


def _started(pid: int) -> str:
    """When a process began (clock ticks): with it a process id cannot be mistaken for a later process."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19]
    except (FileNotFoundError, ProcessLookupError):
        return ""


def _lives(pid: int, started: str) -> bool:
    return started != "" and _started(pid) == started


def quiet_call(argv: Sequence[str], what: str) -> None:
    """Run a short command.

    Raises:
        BenchError: It failed; the message holds its output.
    """
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{what} failed: {done.stderr.strip() or done.stdout.strip()}")
