"""The whole server as a user starts it: ``sparkle serve`` in a process of its own, and what it leaves behind."""

from __future__ import annotations

import contextlib
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Generator, Mapping
from pathlib import Path

_LISTENS = re.compile(r"listens on (http://\S+)")
START_SECONDS = 30.0
STOP_SECONDS = 20.0


class ServerProcess:
    """A running ``sparkle serve``. Made by :func:`serving`."""

    def __init__(self, folder: Path, arguments: list[str], environ: Mapping[str, str]) -> None:
        self.data_dir = folder / "data"
        self.log = folder / "server.log"
        argv = [sys.executable, "-m", "sparkle.cli", "serve", "--port", "0", "--data-dir", str(self.data_dir)]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*argv, *arguments],
                env=clean_environ(environ),
                cwd=folder,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        self.stdout = b""
        self.url = ""

    @property
    def pid(self) -> int:
        """The supervisor's process id."""
        return self.process.pid

    @property
    def port(self) -> int:
        return int(self.url.rpartition(":")[2])

    @property
    def output(self) -> str:
        """All that the server has written to standard output and error."""
        return self.stdout.decode() + self.log.read_text(errors="replace")

    def wait_until_listening(self) -> None:
        """Return once it announced its address; an early death fails with its log."""
        assert self.process.stdout is not None
        deadline = time.monotonic() + START_SECONDS
        while not (found := _LISTENS.search(self.stdout.decode())):
            left = deadline - time.monotonic()
            readable, _, _ = select.select([self.process.stdout], [], [], max(0.0, left))
            assert readable, f"the server did not start in {START_SECONDS} s:\n{self.output}"
            data = os.read(self.process.stdout.fileno(), 65536)
            assert data, f"the server ended with {self.process.wait(5)} at its start:\n{self.output}"
            self.stdout += data
        self.url = found[1]

    def workers(self) -> list[int]:
        """Process ids of the children that live."""
        return [pid for pid in children(self.pid) if is_alive(pid)]

    def signal(self, sig: int, pid: int | None = None) -> None:
        """Signal the supervisor, or one of its children."""
        os.kill(pid or self.pid, sig)

    def wait(self, timeout: float = STOP_SECONDS) -> int:
        """Wait for its end; returns the exit code."""
        code = self.process.wait(timeout)
        assert self.process.stdout is not None
        if not self.process.stdout.closed:
            self.stdout += self.process.stdout.read()
            self.process.stdout.close()
        return code

    def stop(self) -> int:
        """SIGTERM, then wait; whoever is still there after that is killed and fails the test."""
        if self.process.poll() is not None:
            return self.wait()
        family = [self.pid, *descendants(self.pid)]
        self.process.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            for pid in family:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            self.wait()
            raise AssertionError(f"the server did not stop in {STOP_SECONDS} s:\n{self.output}") from None


@contextlib.contextmanager
def serving(
    folder: Path,
    *,
    upstream: str = "",
    workers: int = 1,
    policy: Path | None = None,
    environ: Mapping[str, str] | None = None,
    arguments: tuple[str, ...] = (),
) -> Generator[ServerProcess]:
    """Run ``sparkle serve`` on a free port with its data in ``folder/data``, and stop it at the end."""
    given = ["--workers", str(workers), *arguments]
    given += ["--upstream", upstream] if upstream else []
    given += ["--policy", str(policy)] if policy else []
    defaults = {"SPARKLE_PROVIDER__MAX_RETRIES": "0", "SPARKLE_SERVER__DRAIN_SECONDS": "5"}
    server = ServerProcess(folder, given, {**defaults, **(environ or {})})
    try:
        server.wait_until_listening()
        yield server
    finally:
        server.stop()


def clean_environ(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment without what would change a server's settings."""
    unwanted = ("SPARKLE_", "OPENAI_", "OTEL_", "PROMETHEUS_")
    kept = {
        k: v for k, v in os.environ.items() if not k.startswith(unwanted) and not k.lower().endswith("_proxy")
    }
    return {**kept, **extra}


def children(pid: int) -> list[int]:
    """Direct children of a process, from /proc; none if it is gone."""
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except OSError:
        return []


def descendants(pid: int) -> list[int]:
    """Children, grandchildren and so on."""
    found: list[int] = []
    for child in children(pid):
        found += [child, *descendants(child)]
    return found


def is_alive(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_for_end(pids: list[int], timeout: float = STOP_SECONDS) -> None:
    """Return when none of these processes is left; they need not be ours."""
    deadline = time.monotonic() + timeout
    for pid in pids:
        try:
            handle = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        try:
            # A pidfd becomes readable when its process ends: no polling.
            readable, _, _ = select.select([handle], [], [], max(0.0, deadline - time.monotonic()))
            assert readable, f"process {pid} is still there after {timeout} s"
        finally:
            os.close(handle)
