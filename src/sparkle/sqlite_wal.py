"""Putting an SQLite file into WAL mode while other processes do the same."""

from __future__ import annotations

import sqlite3
import time

_PAUSE_SECONDS = 0.002


def use_wal(db: sqlite3.Connection, *, timeout: float = 10.0) -> None:
    """Switch ``db``'s file to write-ahead logging; it stays so.

    SQLite's busy timeout does not cover this switch: of two workers that open a new file at once, one is told "locked"
    at once. So it is tried again for ``timeout`` seconds, blocking: not for an event loop.

    Raises:
        sqlite3.Error: The file cannot be switched, or was locked all that time.
    """
    give_up = time.monotonic() + timeout
    while True:
        try:
            db.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise
            if time.monotonic() >= give_up:
                raise
        time.sleep(_PAUSE_SECONDS)
