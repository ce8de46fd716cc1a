"""API keys: shown once, stored as a digest, checked in microseconds, revoked everywhere within a second."""

from __future__ import annotations

import base64
import contextlib
import dataclasses
import hashlib
import hmac
import os
import re
import secrets
import sqlite3
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sparkle.clock import Clock, SystemClock
from sparkle.errors import (
    AuthenticationError,
    InvalidRequestError,
    KeyStoreUnavailableError,
    NotFoundError,
)
from sparkle.llm.usage import Principal
from sparkle.server.key_info import KeyInfo
from sparkle.sqlite_wal import use_wal

PREFIX = "sk-sparkle-"
KEYS_FILE = "keys.db"

_ID_ALPHABET = "abcdefghijklmnopqrstuvwxyz0123456789"
_ID_LENGTH = 12
_SECRET_BYTES = 32
_SECRET_LENGTH = 43  # 32 bytes in URL-safe base64 without padding
_KEY_LENGTH = len(PREFIX) + _ID_LENGTH + 1 + _SECRET_LENGTH
_NAME = re.compile(r"[^\x00-\x1f\x7f]{1,256}")

_SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (
  id TEXT PRIMARY KEY,
  digest BLOB NOT NULL,
  user TEXT NOT NULL,
  team TEXT,
  name TEXT,
  models TEXT NOT NULL,
  created REAL NOT NULL,
  expires REAL,
  revoked REAL
) STRICT, WITHOUT ROWID
"""
_COLUMNS = "id, digest, user, team, name, models, created, expires, revoked"

Row = tuple[str, bytes, str, str | None, str | None, str, float, float | None, float | None]


@dataclass(frozen=True, slots=True)
class _Entry:
    digest: bytes
    principal: Principal
    expires: float | None
    revoked: bool


class KeyStore:
    """The keys of one installation, in an SQLite file that any number of processes share.

    A key is 256 random bits, so a single SHA-256 is as strong as a slow password hash would be: there is no
    smaller space to search, and a slow hash would cost every request. Checking reads a table in memory; the
    file is asked whether anything changed at most every ``refresh_seconds``. Connects at first use, so it
    may be made before a fork; each process then has its own connection. Not for use from several threads.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        clock: Clock | None = None,
        refresh_seconds: float = 0.25,
        max_stale_seconds: float = 5.0,
        token_bytes: Callable[[int], bytes] = secrets.token_bytes,
    ) -> None:
        """Remember where the keys are.

        Args:
            path: The file, usually ``data_dir/keys.db``; made by the first :meth:`create`.
            clock: Time of expiry and refresh.
            refresh_seconds: Longest time for which another process's change goes unseen.
            max_stale_seconds: How long known keys stay good while the file cannot be read; then all are
                refused, because a revocation could go unseen.
            token_bytes: Source of ids and secrets.
        """
        self.path = Path(path)
        self._clock = clock or SystemClock()
        self._refresh = refresh_seconds
        self._max_stale = max_stale_seconds
        self._token_bytes = token_bytes
        self._reader: sqlite3.Connection | None = None
        self._pid = 0
        self._inode = 0
        self._version = -1
        self._entries: dict[str, _Entry] = {}
        self._next_look = float("-inf")
        self._good_at = self._clock.monotonic()
        self._inherited: list[sqlite3.Connection] = []

    def create(
        self,
        user: str,
        *,
        team: str | None = None,
        name: str | None = None,
        models: Sequence[str] = (),
        expires: float | None = None,
    ) -> tuple[str, str]:
        """Make a key.

        Args:
            user: Whom its calls are charged to, 1 to 256 characters.
            team: Team whose limits also apply.
            name: A note for the list.
            models: Glob patterns of the models it may use; none: all.
            expires: Unix seconds after which it is refused; ``None``: never.

        Returns:
            The public id and the key itself, which is stored nowhere and can't be shown again.

        Raises:
            InvalidRequestError: A name is empty, too long or holds control characters, or the time has
                passed.
            KeyStoreUnavailableError: The file cannot be written.
        """
        for label, value in (("user", user), ("team", team), ("name", name), *(("model", m) for m in models)):
            if value is not None and not _NAME.fullmatch(value):
                raise InvalidRequestError(f"{label} must be 1 to 256 printable characters", param=label)
        now = self._clock.now()
        if expires is not None and expires <= now:
            raise InvalidRequestError("expires must lie in the future", param="expires")
        key_id = "".join(_ID_ALPHABET[b % len(_ID_ALPHABET)] for b in self._token_bytes(_ID_LENGTH))
        secret = _urlsafe(self._token_bytes(_SECRET_BYTES))
        row: Row = (
            key_id,
            hashlib.sha256(secret.encode()).digest(),
            user,
            team,
            name,
            msgspec.json.encode(list(models)).decode(),
            now,
            expires,
            None,
        )
        with self._writing() as db:
            db.execute(f"INSERT INTO keys ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)", row)  # noqa: S608  a constant
        return key_id, f"{PREFIX}{key_id}-{secret}"

    def list(self) -> tuple[KeyInfo, ...]:
        """All keys, oldest first, revoked and expired ones included.

        Raises:
            KeyStoreUnavailableError: The file cannot be read.
        """
        if not self.path.exists():
            return ()
        try:
            with contextlib.closing(_connect(self.path)) as db:
                found = [_info(row) for row in _rows(db)]
        except sqlite3.Error as exc:
            raise KeyStoreUnavailableError(f"the key store {self.path} cannot be read") from exc
        return tuple(sorted(found, key=lambda key: (key.created, key.id)))

    def revoke(self, key_id: str) -> KeyInfo:
        """Refuse this key from now on, in every process within ``refresh_seconds``. Doing it twice is
        harmless.

        Raises:
            NotFoundError: There is no key with this public id.
            KeyStoreUnavailableError: The file cannot be written.
        """
        info = next((key for key in self.list() if key.id == key_id), None)
        if info is None:
            raise NotFoundError("there is no key with this id", param="id")
        when = info.revoked or self._clock.now()
        with self._writing() as db:
            db.execute("UPDATE keys SET revoked = coalesce(revoked, ?) WHERE id = ?", (when, key_id))
        return dataclasses.replace(info, revoked=when)

    def verify(self, presented: str) -> Principal:
        """Whom a presented key belongs to. About a microsecond; reads the file only when it changed.

        Raises:
            AuthenticationError: The key is missing, malformed, unknown, expired or revoked.
            KeyStoreUnavailableError: The file could not be read for ``max_stale_seconds``.
        """
        now = self._clock.monotonic()
        if now >= self._next_look:
            self._look(now, max_stale=self._max_stale)
        key_id = presented[len(PREFIX) : len(PREFIX) + _ID_LENGTH]
        entry = self._entries.get(key_id)
        if len(presented) != _KEY_LENGTH or not presented.startswith(PREFIX) or entry is None:
            raise AuthenticationError
        digest = hashlib.sha256(presented[-_SECRET_LENGTH:].encode("utf-8", "replace")).digest()
        if presented[-_SECRET_LENGTH - 1] != "-" or not hmac.compare_digest(digest, entry.digest):
            raise AuthenticationError
        # Only whoever holds the secret learns why it is refused.
        if entry.revoked:
            raise AuthenticationError("The API key has been revoked.")
        if entry.expires is not None and entry.expires <= self._clock.now():
            raise AuthenticationError("The API key has expired.")
        return entry.principal

    def ready(self) -> None:
        """Nothing, or the reason why keys can't be checked.

        Raises:
            KeyStoreUnavailableError: The file cannot be read.
        """
        self._next_look = float("-inf")
        self._look(self._clock.monotonic(), max_stale=0.0)

    def close(self) -> None:
        """Close the file. A later call opens it again."""
        if self._reader is not None and self._pid == os.getpid():
            self._reader.close()
        self._reader = None
        self._next_look = float("-inf")
        self._version = -1

    # Inside

    def _look(self, now: float, *, max_stale: float) -> None:
        try:
            self._reload_if_changed()
            self._good_at = now
        except (sqlite3.Error, OSError) as exc:
            if now - self._good_at >= max_stale:
                raise KeyStoreUnavailableError(retry_after=1) from exc
        finally:
            self._next_look = now + self._refresh

    def _reload_if_changed(self) -> None:
        try:
            inode = os.stat(self.path).st_ino
        except FileNotFoundError:  # no key was made yet, or somebody took the file away
            self.close()
            self._entries = {}
            return
        reader = self._reader
        if reader is None or inode != self._inode or self._pid != os.getpid():
            reader = self._connect_reader(inode)
        # Counts the commits of other connections, ours for writing included; asking costs no read of the file.
        version = int(reader.execute("PRAGMA data_version").fetchone()[0])
        if version != self._version:
            self._entries = {row[0]: _entry(row) for row in _rows(reader)}
            self._version = version

    def _connect_reader(self, inode: int) -> sqlite3.Connection:
        if self._reader is not None and self._pid != os.getpid():
            # A connection that crossed a fork is the parent's: even closing it would drop the parent's locks.
            self._inherited.append(self._reader)
            self._reader = None
        self.close()
        self._reader = _connect(self.path)
        self._pid, self._inode = os.getpid(), inode
        return self._reader

    @contextlib.contextmanager
    def _writing(self) -> Generator[sqlite3.Connection]:
        """A connection of its own for one change: changes are rare, and the reader then notices them too."""
        try:
            self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.close(os.open(self.path, os.O_CREAT | os.O_RDWR, 0o600))
            with contextlib.closing(_connect(self.path)) as db:
                use_wal(db)
                db.execute(_SCHEMA)
                yield db
        except (sqlite3.Error, OSError) as exc:
            raise KeyStoreUnavailableError(f"the key store {self.path} cannot be written") from exc
        self._next_look = float("-inf")


def _connect(path: Path) -> sqlite3.Connection:
    # mode=rw: a file that vanished is an error to see, not an empty one to make.
    uri = f"{path.absolute().as_uri()}?mode=rw"
    return sqlite3.connect(uri, uri=True, isolation_level=None, timeout=2.0, check_same_thread=False)


def _rows(db: sqlite3.Connection) -> list[Row]:
    return db.execute(f"SELECT {_COLUMNS} FROM keys").fetchall()  # noqa: S608  a constant


def _entry(row: Row) -> _Entry:
    key_id, digest, user, team, _, models, _, expires, revoked = row
    return _Entry(digest, Principal(user, team, key_id, _models(models)), expires, revoked is not None)


def _info(row: Row) -> KeyInfo:
    key_id, _, user, team, name, models, created, expires, revoked = row
    return KeyInfo(key_id, user, team, name, _models(models), created, expires, revoked)


def _models(text: str) -> tuple[str, ...]:
    return msgspec.json.decode(text, type=tuple[str, ...])


def _urlsafe(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
