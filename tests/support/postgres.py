"""A real PostgreSQL for tests: the distribution's server on a socket in a temporary folder, owned by the test run.

It refuses to run as root, so root starts it as another user. It keeps nothing over a crash (``fsync=off``): a test of
what survives a power cut would need another one.
"""

from __future__ import annotations

import contextlib
import ctypes
import getpass
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_USERS = ("postgres", "nobody")
_PR_SET_PDEATHSIG = 1
_START_SECONDS = 30.0
_counter = itertools.count()


def postgres_folder() -> Path:
    """Folder of ``initdb`` and ``postgres``.

    Raises:
        FileNotFoundError: They are not installed; the message names the package.
    """
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/postgres"), key=lambda p: int(p.parts[-3]))
    if versions:
        return versions[-1].parent
    found = shutil.which("postgres")
    if found and shutil.which("initdb"):
        return Path(found).resolve().parent
    raise FileNotFoundError("PostgreSQL's server is missing: apt-get install postgresql")


def _other_user() -> pwd.struct_passwd | None:
    """Whom to start the server as; ``None``: ourselves."""
    if os.getuid() != 0:
        return None
    for name in _USERS:
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    raise FileNotFoundError(f"PostgreSQL refuses root, and none of the users {_USERS} exists")


def _die_with_parent() -> None:
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGINT)


class PostgresProcess:
    """One server. ``database()`` gives the URL of a fresh, empty database in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._user = _other_user()
        self._process: subprocess.Popen[bytes] | None = None
        self._name = self._user.pw_name if self._user else getpass.getuser()

    def start(self) -> None:
        binaries = postgres_folder()
        user = None if self._user is None else self._user.pw_uid
        group = None if self._user is None else self._user.pw_gid
        if self._user is not None:
            os.chown(self._folder, self._user.pw_uid, self._user.pw_gid)
        data = self._folder / "data"
        if not data.exists():
            subprocess.run(
                [
                    str(binaries / "initdb"),
                    *("-D", str(data), "-U", "sparkle", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8"),
                    *("--no-sync", "--no-instructions"),
                ],
                check=True,
                capture_output=True,
                cwd=self._folder,
                user=user,
                group=group,
            )
        options = {
            "listen_addresses": "",
            "unix_socket_directories": str(self._folder),
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "32MB",
            "max_connections": "150",
            "log_min_messages": "fatal",
        }
        settings = [word for name, value in options.items() for word in ("-c", f"{name}={value}")]
        self._process = subprocess.Popen(
            [str(binaries / "postgres"), "-D", str(data), *settings],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            cwd=self._folder,
            preexec_fn=_die_with_parent,
            user=user,
            group=group,
        )
        self._wait()

    def _wait(self) -> None:
        import psycopg

        give_up = time.monotonic() + _START_SECONDS
        while True:
            assert self._process is not None
            assert self._process.poll() is None, "postgres did not start"
            try:
                psycopg.connect(self._conninfo("postgres"), connect_timeout=1).close()
                return
            except psycopg.OperationalError:
                assert time.monotonic() < give_up, "postgres does not answer"
                time.sleep(0.02)  # waits for another process, not for time to pass

    def stop(self) -> None:
        if self._process is not None:
            self._process.send_signal(signal.SIGQUIT)  # at once; nothing in it is to be kept
            self._process.wait()
            self._process = None

    def database(self, *, template: str = "template0") -> str:
        """URL of a new database, a copy of ``template``."""
        import psycopg

        name = f"test_{os.getpid()}_{next(_counter)}"
        with psycopg.connect(self._conninfo("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())
        return f"postgresql://sparkle@/{name}?host={self._folder}"

    def _conninfo(self, database: str) -> str:
        return f"host={self._folder} user=sparkle dbname={database}"


@contextmanager
def running_postgres() -> Generator[PostgresProcess]:
    """A fresh server for the length of a ``with`` block."""
    # A short folder: socket paths are limited to some 100 bytes.
    folder = Path(tempfile.mkdtemp(prefix="pg"))
    server = PostgresProcess(folder)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(folder, ignore_errors=True)
