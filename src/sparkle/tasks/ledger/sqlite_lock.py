"""Waiting for SQLite's one write lock without oversleeping.

SQLite's own busy timeout sleeps for 1, 2, 5, 10, 15, 20, 25, 25, 25, 50, 50 and then 100 ms between two attempts,
whatever the lock's holder does: a writer that meets a few short transactions in a row waits a hundred milliseconds
for a lock that was free most of the time. Here the pauses begin at a fifth of a millisecond and stay unnoticeable.
"""

from __future__ import annotations

import sqlite3
import time

WRITE = ("BEGIN IMMEDIATE",)
# Reading something here takes the snapshot, and meets whoever may be in the way: a file that is just being recovered.
READ = ("BEGIN", "SELECT 1 FROM sqlite_schema LIMIT 1")
_PAUSES = ((0.01, 0.0002), (0.1, 0.001), (1.0, 0.003), (float("inf"), 0.01))
"""Up to so many seconds of waiting, pauses of so many: who waits for long need not be quick, but must be cheap."""


def begin(db: sqlite3.Connection, statements: tuple[str, ...], patience: float) -> bool:
    """Begin a transaction on a connection whose busy timeout is 0.

    Args:
        db: The connection, outside of a transaction.
        statements: :data:`WRITE` or :data:`READ`.
        patience: Seconds to wait while the file is locked. Blocks: not for an event loop.

    Returns:
        Whether it has begun. If not, the same statements tell why.
    """
    started = time.monotonic()
    while True:
        try:
            for statement in statements:
                db.execute(statement).fetchone()
        except sqlite3.Error as exc:
            if db.in_transaction:
                db.execute("ROLLBACK")
            waited = time.monotonic() - started
            # An error of the interpreter's module itself has no code.
            code = getattr(exc, "sqlite_errorcode", None) or sqlite3.SQLITE_ERROR
            if code & 0xFF != sqlite3.SQLITE_BUSY or waited >= patience:
                return False
            time.sleep(next(pause for until, pause in _PAUSES if waited < until))
        else:
            return True
