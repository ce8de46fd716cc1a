"""The audit file: one JSON line per call, appended by any number of processes."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import hmac
import logging
import os
import secrets
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from sparkle.clock import Clock
from sparkle.errors import AuditUnavailableError

log = logging.getLogger("sparkle.audit")

_RETRY_SECONDS = 1.0
_KEY_BYTES = 32
_FLAGS = os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_CLOEXEC", 0)


class AuditLog:
    """Appends records to ``audit-YYYY-MM-DD.jsonl`` (UTC days) in a folder of its own, readable by the
    owner alone.

    Lines appended in one turn of the event loop leave in one ``write`` to a file opened for appending, so
    several processes share a file without mixing lines. The write goes to the kernel's page cache: a killed
    process loses at most the lines of its last turn, a machine that loses power what the kernel had not yet
    stored.

    While the file cannot be written, lines wait in a bounded buffer and are tried again every second; what
    does not fit is counted as dropped. Build one in each worker, after the fork. Not for use from several
    threads.
    """

    def __init__(
        self, folder: str | Path, *, clock: Clock, retention_days: int = 90, max_buffered_bytes: int = 8 << 20
    ) -> None:
        """Touch nothing yet: the folder is made at the first write or :meth:`open`.

        Args:
            folder: Where the files stand, e.g. ``data_dir/audit``.
            clock: Tells the day, and the time since a failure.
            retention_days: Files of older days are deleted when a day begins; 0 keeps them all.
            max_buffered_bytes: How much may wait while the file cannot be written.
        """
        self.folder = Path(folder)
        self._clock = clock
        self._retention_days = retention_days
        self._max_buffered = max_buffered_bytes
        self._lines: list[bytes] = []
        self._buffered = 0
        self._fd: int | None = None
        self._next_midnight = 0.0
        self._checked_at = 0.0
        self._mend = False
        self._retry_at: float | None = None
        self._handle: asyncio.Handle | None = None
        self._key: bytes | None = None
        self.dropped = 0
        """Records lost since the start."""
        self.write_errors = 0
        """Failed writes since the start."""
        self.on_change: Callable[[], None] | None = None
        """Called when ``dropped`` or ``write_errors`` grew."""

    @property
    def failing(self) -> bool:
        """True from a failed write until one succeeds."""
        return self._retry_at is not None

    def open(self) -> None:
        """Make the folder and today's file now.

        Raises:
            AuditUnavailableError: That is not possible; the message says why.
        """
        try:
            self._file()
        except OSError as exc:
            raise AuditUnavailableError(f"no audit record can be written: {exc.strerror}") from None

    def append(self, line: bytes) -> None:
        """Add one line (with its newline). Never blocks for long and never raises; see ``dropped``."""
        if self._buffered + len(line) > self._max_buffered:
            self.dropped += 1
            self._changed()
            return
        self._lines.append(line)
        self._buffered += len(line)
        if self._handle is None:
            try:
                loop = asyncio.get_running_loop()
            except RuntimeError:  # no loop: a script; write at once
                self.flush()
                return
            self._handle = loop.call_soon(self._turn)

    def flush(self) -> bool:
        """Write what waits. True if nothing is left; False while the file cannot be written."""
        if not self._lines:
            return True
        now = self._clock.monotonic()
        if self._retry_at is not None and now < self._retry_at:
            return False
        try:
            self._write(self._file())
        except OSError as exc:
            self.write_errors += 1
            if self._retry_at is None:
                log.warning("audit records wait: cannot write in %s: %s", self.folder, exc.strerror)
            self._retry_at = now + _RETRY_SECONDS
            self._close_file()
            self._changed()
            return False
        if self._retry_at is not None:
            log.warning("audit records are written again in %s", self.folder)
            self._retry_at = None
        return True

    def close(self) -> None:
        """Write what waits, a last time, and close the file. What cannot be written is counted as dropped."""
        if self._handle is not None:
            self._handle.cancel()
            self._handle = None
        if self._retry_at is not None:
            self._retry_at = self._clock.monotonic()
        if not self.flush():
            self.dropped += len(self._lines)
            log.error("%d audit records are lost: cannot write in %s", len(self._lines), self.folder)
            self._lines.clear()
            self._buffered = 0
            self._changed()
        self._close_file()

    def digest(self, data: bytes) -> str:
        """Keyed digest (HMAC-SHA256, 64 hexadecimal digits) of a message's canonical bytes.

        The key is random per data folder (``hmac.key`` beside the files), so that nobody without it can
        find a short text by trying texts, while the operator can show that a request at hand is the one
        that was recorded.

        Raises:
            OSError: The key cannot be read or made.
        """
        if self._key is None:
            self._key = _read_or_make_key(self.folder)
        return hmac.digest(self._key, data, hashlib.sha256).hex()

    def _turn(self) -> None:
        self._handle = None
        if not self.flush():
            loop = asyncio.get_running_loop()
            self._handle = loop.call_later(_RETRY_SECONDS, self._turn)

    def _write(self, fd: int) -> None:
        data = b"".join(self._lines)
        if self._mend:
            data = b"\n" + data
        written = os.write(fd, data)
        if written == len(data):
            self._lines.clear()
            self._buffered = 0
            self._mend = False
            return
        # A short write means a full disk or a limit: keep whole lines only, and end the torn one before the
        # next.
        done = written - (1 if self._mend else 0)
        while self._lines and done >= len(self._lines[0]):
            done -= len(self._lines[0])
            self._buffered -= len(self._lines.pop(0))
        self._mend = done > 0 or (self._mend and written == 0)
        raise OSError(28, "short write")

    def _file(self) -> int:
        now = self._clock.now()
        if self._fd is not None and now < self._next_midnight and not self._was_removed(now):
            return self._fd
        self._close_file()
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        today = datetime.fromtimestamp(now, UTC).date()
        self._fd = os.open(self.folder / f"audit-{today.isoformat()}.jsonl", _FLAGS, 0o600)
        following = datetime.combine(today + timedelta(days=1), datetime.min.time(), UTC)
        self._next_midnight = following.timestamp()
        self._checked_at = now
        self._delete_old(today)
        return self._fd

    def _was_removed(self, now: float) -> bool:
        """Whether somebody deleted or rotated the open file away; looked up once a second."""
        if self._fd is None or now - self._checked_at < 1.0:
            return False
        self._checked_at = now
        return os.fstat(self._fd).st_nlink == 0

    def _delete_old(self, today: date) -> None:
        if not self._retention_days:
            return
        oldest = f"audit-{(today - timedelta(days=self._retention_days)).isoformat()}.jsonl"
        for file in self.folder.glob("audit-????-??-??.jsonl"):
            if file.name < oldest:
                file.unlink(missing_ok=True)  # another worker may have been faster

    def _close_file(self) -> None:
        if self._fd is not None:
            fd, self._fd = self._fd, None
            with contextlib.suppress(OSError):  # a late write error shows at close on network file systems
                os.close(fd)

    def _changed(self) -> None:
        if self.on_change is not None:
            self.on_change()


def _read_or_make_key(folder: Path) -> bytes:
    """The folder's key; the first process makes it, and a process that comes second takes the first one's."""
    path = folder / "hmac.key"
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if not path.exists():
        fresh = folder / f".hmac.key.{os.getpid()}.{secrets.token_hex(4)}"
        fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.write(fd, secrets.token_bytes(_KEY_BYTES))
            os.fsync(fd)
        finally:
            os.close(fd)
        with contextlib.suppress(FileExistsError):
            os.link(fresh, path)  # unlike a rename, a link never replaces the other process's key
        fresh.unlink()
    return path.read_bytes()
