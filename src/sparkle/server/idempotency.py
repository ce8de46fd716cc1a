"""Idempotency keys: the same key and body get the same answer, once paid.

An embedded SQLite file shared by the workers of a machine. Only finished answers are kept; a failed call frees its
key, so that a retry runs. Claims of a killed worker lapse.
"""

from __future__ import annotations

import hashlib
import hmac
import sqlite3
from dataclasses import dataclass
from pathlib import Path

from sparkle.clock import Clock
from sparkle.errors import IdempotencyConflictError, LimitError
from sparkle.sqlite_wal import use_wal

_CLAIM_SECONDS = 900.0
"""A claim older than this belongs to a call that died."""
_PRUNE_EVERY = 256
_MAX_STORED_BYTES = 4 * 1024 * 1024
_SCHEMA = """
CREATE TABLE IF NOT EXISTS answers (
    id TEXT PRIMARY KEY,             -- SHA-256 of principal and key
    body_hash TEXT NOT NULL,
    status INTEGER,                  -- NULL while the first call runs
    content_type TEXT,
    answer BLOB,
    expires REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS answers_expires ON answers (expires);
"""


class InFlightError(LimitError):
    """The first call with this Idempotency-Key is still running."""

    http_status = 409  # OpenAI's SDKs retry a 409 by themselves
    grpc_status = "ABORTED"
    type = "invalid_request_error"
    code = "idempotency_in_flight"


@dataclass(frozen=True, slots=True)
class StoredAnswer:
    """An answer given before."""

    status: int
    content_type: str
    body: bytes


class IdempotencyStore:
    """Answers by key. Synchronous: each operation is one small local transaction (about 30 us)."""

    def __init__(self, path: Path, *, keep_seconds: int, clock: Clock) -> None:
        self._keep = keep_seconds
        self._clock = clock
        self._claims = 0
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(mode=0o600)
        self._db = sqlite3.connect(path, isolation_level=None, timeout=2.0, check_same_thread=False)
        use_wal(self._db)
        self._db.execute("PRAGMA synchronous=NORMAL")
        self._db.executescript(_SCHEMA)

    def claim(self, owner: str, key: str, body: bytes) -> StoredAnswer | None:
        """Claim a key for a new call, or return the answer it already has.

        Raises:
            IdempotencyConflictError: The key came with another body before.
            InFlightError: The first call is still running.
        """
        now = self._clock.now()
        self._claims += 1
        if self._claims % _PRUNE_EVERY == 1:
            self._db.execute("DELETE FROM answers WHERE expires < ?", (now,))
        digest = hashlib.sha256(body).hexdigest()
        row_id = _row_id(owner, key)
        for _ in range(2):
            inserted = self._db.execute(
                "INSERT INTO answers VALUES (?, ?, NULL, NULL, NULL, ?) ON CONFLICT DO NOTHING",
                (row_id, digest, now + _CLAIM_SECONDS),
            ).rowcount
            if inserted == 1:
                return None
            row = self._db.execute(
                "SELECT body_hash, status, content_type, answer, expires FROM answers WHERE id = ?", (row_id,)
            ).fetchone()
            if row is not None and row[4] >= now:
                break
            self._db.execute("DELETE FROM answers WHERE id = ? AND expires < ?", (row_id, now))
        else:
            raise InFlightError(retry_after=1)
        if not hmac.compare_digest(row[0], digest):
            raise IdempotencyConflictError(param="Idempotency-Key")
        if row[1] is None:
            raise InFlightError(retry_after=1)
        return StoredAnswer(row[1], row[2], row[3])

    def store(self, owner: str, key: str, answer: StoredAnswer) -> None:
        """Keep the answer of a finished call; one too large to keep frees the key."""
        if len(answer.body) > _MAX_STORED_BYTES:
            self.free(owner, key)
            return
        self._db.execute(
            "UPDATE answers SET status = ?, content_type = ?, answer = ?, expires = ? WHERE id = ?",
            (
                answer.status,
                answer.content_type,
                answer.body,
                self._clock.now() + self._keep,
                _row_id(owner, key),
            ),
        )

    def free(self, owner: str, key: str) -> None:
        """Give the key back after a call that failed."""
        self._db.execute("DELETE FROM answers WHERE id = ? AND status IS NULL", (_row_id(owner, key),))

    def close(self) -> None:
        """Close the file."""
        self._db.close()


def _row_id(owner: str, key: str) -> str:
    return hashlib.sha256(f"{owner}\0{key}".encode()).hexdigest()
