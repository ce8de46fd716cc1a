"""Wakes the relay when a task was added. It only saves time: a relay that hears nothing looks by itself.

SQLite: a datagram to the socket of each relay of this machine, in a folder beside the database. PostgreSQL: NOTIFY,
which the database sends when, and only when, the transaction commits.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import select
import socket
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

log = logging.getLogger("sparkle.tasks.doorbell")

CHANNEL = "sparkle_tasks"
"""PostgreSQL channel on which the ledger notifies."""
_LONGEST_PATH = 90
"""Socket addresses are limited to some 100 bytes."""


def bell_folder(database: Path) -> Path:
    """Where the relays of an SQLite ledger listen: beside it, or in the temporary folder if that path is too long."""
    beside = database.absolute().with_name(database.name + ".bells")
    if len(os.fsencode(beside)) <= _LONGEST_PATH:
        return beside
    digest = hashlib.blake2b(os.fsencode(beside), digest_size=8).hexdigest()
    return Path(tempfile.gettempdir()) / f"sparkle-bells-{os.getuid()}-{digest}"


class Doorbell:
    """Rings for the relays of one SQLite ledger. Never blocks, never fails; for several threads."""

    def __init__(self, database: Path) -> None:
        self._folder = str(bell_folder(database))
        self._socket: socket.socket | None = None

    def ring(self) -> None:
        """Wake every relay that listens."""
        try:
            listeners = os.listdir(self._folder)
        except OSError:
            return  # nobody has ever listened
        if not listeners:
            return
        if self._socket is None:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
            self._socket.setblocking(False)
        for name in listeners:
            path = f"{self._folder}/{name}"
            try:
                self._socket.sendto(b"\x00", path)
            except BlockingIOError:
                pass  # it has been rung for already and will look
            except ConnectionRefusedError:
                # Its relay was killed.
                with contextlib.suppress(OSError):
                    os.unlink(path)
            except OSError:
                pass  # it is just going; whoever comes looks by itself

    def close(self) -> None:
        """Give the socket back."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


class SocketBell:
    """What a relay of an SQLite ledger listens to.

    Args:
        database: The ledger's file.
        name: Name of this listener among the others; no slash.

    Raises:
        OSError: The socket cannot be made.
    """

    def __init__(self, database: Path, name: str) -> None:
        folder = bell_folder(database)
        folder.mkdir(mode=0o700, exist_ok=True)
        self._path = folder / hashlib.blake2b(name.encode(), digest_size=6).hexdigest()
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._socket.bind(str(self._path))

    def wait(self, seconds: float) -> bool:
        """Return when somebody rings, at the latest after ``seconds``; whether somebody did."""
        ready, _, _ = select.select([self._socket], [], [], max(seconds, 0.0))
        if not ready:
            return False
        with contextlib.suppress(BlockingIOError):
            while True:  # one look at the ledger answers all who rang before it
                self._socket.recv(16)
        return True

    def close(self) -> None:
        """Listen no longer."""
        self._socket.close()
        self._path.unlink(missing_ok=True)


class NotifyBell:
    """What a relay of a PostgreSQL ledger listens to. While the database is away it only waits.

    Args:
        url: Address as psycopg takes it.
    """

    def __init__(self, url: str) -> None:
        self._url = url
        self._connection: Any = None
        self._still = threading.Event()

    def wait(self, seconds: float) -> bool:
        """Return when a task was added, at the latest after ``seconds``; whether one was."""
        import psycopg

        try:
            if self._connection is None:
                self._connection = psycopg.connect(
                    self._url, autocommit=True, connect_timeout=5, application_name="sparkle relay"
                )
                self._connection.execute(f"LISTEN {CHANNEL}")
            return any(True for _ in self._connection.notifies(timeout=max(seconds, 0.0), stop_after=1))
        except psycopg.Error as exc:
            log.debug("the relay cannot listen to the database: %s", type(exc).__name__)
            self.close()
            self._still.wait(seconds)
            return False

    def close(self) -> None:
        """Listen no longer."""
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()


Bell = SocketBell | NotifyBell


def open_bell(ledger: Ledger, name: str) -> Bell:
    """What the relay ``name`` of ``ledger`` listens to.

    Raises:
        OSError: The socket cannot be made.
    """
    url = ledger.engine.url
    if ledger.dialect == "postgresql":
        plain = url.set(drivername="postgresql").render_as_string(hide_password=False)
        return NotifyBell(plain)
    return SocketBell(Path(str(url.database)), name)
