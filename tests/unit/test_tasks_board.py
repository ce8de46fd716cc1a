"""What a worker's parent and children tell each other through shared memory."""

from __future__ import annotations

import os

import pytest

from sparkle.tasks.worker.board import Board


def test_a_slot_tells_who_is_there_and_when_to_kill_it() -> None:
    board = Board(2)
    slot = board.slot(1)
    assert slot.read().pid == 0
    slot.occupy(42, "host:42:abc")
    slot.arm(12.5, "0190aaaa-0000-7000-8000-000000000001", 7)
    seen = slot.read()
    assert (seen.pid, seen.owner, seen.kill_at, seen.fence) == (42, "host:42:abc", 12.5, 7)
    assert seen.task_id == "0190aaaa-0000-7000-8000-000000000001"
    assert not seen.killed
    slot.mark_killed()
    assert slot.read().killed
    slot.disarm()
    assert slot.read().kill_at == 0.0
    assert board.slot(0).read().pid == 0
    slot.occupy(43, "other")
    assert slot.read() == type(seen)(43, 0.0, 0, "", "other", False)
    board.close()


def test_children_write_what_the_parent_reads() -> None:
    board = Board(1)
    pid = os.fork()
    if pid == 0:
        board.slot(0).occupy(os.getpid(), "child")
        board.stop_at = 3.0
        os._exit(0)
    os.waitpid(pid, 0)
    assert board.slot(0).read().pid == pid
    assert board.stop_at == 3.0
    board.close()


def test_places_that_do_not_exist_and_names_that_do_not_fit_are_refused() -> None:
    board = Board(1)
    for index in (-1, 1):
        with pytest.raises(IndexError):
            board.slot(index)
    with pytest.raises(ValueError, match="120 bytes"):
        board.slot(0).occupy(1, "x" * 121)
    board.close()
