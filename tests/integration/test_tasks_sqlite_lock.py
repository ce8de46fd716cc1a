"""Waiting for SQLite's write lock: as long as it is held, and not much longer."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from sparkle.tasks.ledger.sqlite_lock import READ, WRITE, begin


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "some.db"
    with closing(opened(path)) as db:
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t (x INTEGER)")
    return path


def opened(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(path, timeout=0.0, isolation_level=None, check_same_thread=False)


@pytest.fixture
def pair(file: Path) -> Iterator[tuple[sqlite3.Connection, sqlite3.Connection]]:
    with closing(opened(file)) as one, closing(opened(file)) as other:
        yield one, other


def test_a_writer_gets_the_lock_when_it_is_given_back(
    pair: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    holder, waiter = pair
    assert begin(holder, WRITE, 0.0)
    got: list[bool] = []
    waiting = threading.Thread(target=lambda: got.append(begin(waiter, WRITE, 30.0)))
    waiting.start()
    holder.execute("INSERT INTO t VALUES (1)")
    holder.execute("COMMIT")
    waiting.join()
    assert got == [True]
    assert waiter.in_transaction


def test_whoever_runs_out_of_patience_is_told_and_holds_nothing(
    pair: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    holder, waiter = pair
    assert begin(holder, WRITE, 0.0)
    assert not begin(waiter, WRITE, 0.02)
    assert not waiter.in_transaction


def test_a_reader_waits_for_no_writer_and_sees_one_state(
    pair: tuple[sqlite3.Connection, sqlite3.Connection],
) -> None:
    writer, reader = pair
    assert begin(reader, READ, 0.0)
    assert begin(writer, WRITE, 0.0)
    writer.execute("INSERT INTO t VALUES (1)")
    writer.execute("COMMIT")
    assert reader.execute("SELECT count(*) FROM t").fetchone() == (0,)


def test_what_is_wrong_with_the_file_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "none.db"
    path.write_bytes(b"this is no database, it is only long enough to be taken for one" * 20)
    with closing(opened(path)) as db:
        assert not begin(db, READ, 30.0)
        assert not db.in_transaction
