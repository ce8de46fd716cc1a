"""Two processes that open a new file at once both get it."""

from __future__ import annotations

import sqlite3
import threading
from pathlib import Path

import pytest

from sparkle.sqlite_wal import use_wal


def connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, isolation_level=None, timeout=0.0, check_same_thread=False)


def test_a_file_that_is_locked_for_a_moment_is_switched_when_it_is_free(tmp_path: Path) -> None:
    holder, other = connect(tmp_path / "x.db"), connect(tmp_path / "x.db")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        other.execute("PRAGMA journal_mode=WAL")
    switching = threading.Thread(target=use_wal, args=(other,))
    switching.start()
    holder.execute("COMMIT")
    switching.join(10)
    assert other.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    holder.close()
    other.close()


def test_a_file_that_stays_locked_is_an_error(tmp_path: Path) -> None:
    holder, other = connect(tmp_path / "x.db"), connect(tmp_path / "x.db")
    holder.execute("BEGIN EXCLUSIVE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        use_wal(other, timeout=0.0)
    holder.close()
    other.close()


def test_any_other_error_is_told_at_once(tmp_path: Path) -> None:
    (tmp_path / "x.db").write_bytes(b"this is no database" * 100)
    broken = connect(tmp_path / "x.db")
    with pytest.raises(sqlite3.DatabaseError):
        use_wal(broken)
    broken.close()
