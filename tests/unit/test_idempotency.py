"""The same key and body get the same answer; another body is a conflict; a failed call frees its key."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.clock import ManualClock

from sparkle.errors import IdempotencyConflictError
from sparkle.server.idempotency import IdempotencyStore, InFlightError, StoredAnswer

ANSWER = StoredAnswer(200, "application/json", b'{"id": 1}')


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> Iterator[IdempotencyStore]:
    store = IdempotencyStore(tmp_path / "x" / "answers.db", keep_seconds=100, clock=clock)
    yield store
    store.close()


def test_a_finished_call_is_answered_again_without_running(store: IdempotencyStore) -> None:
    assert store.claim("u", "k", b"body") is None
    store.store("u", "k", ANSWER)
    assert store.claim("u", "k", b"body") == ANSWER


def test_another_body_is_a_conflict(store: IdempotencyStore) -> None:
    store.claim("u", "k", b"body")
    with pytest.raises(IdempotencyConflictError):
        store.claim("u", "k", b"other")


def test_a_running_call_is_not_started_twice(store: IdempotencyStore) -> None:
    store.claim("u", "k", b"body")
    with pytest.raises(InFlightError) as caught:
        store.claim("u", "k", b"body")
    assert caught.value.retry_after


def test_keys_of_different_users_do_not_meet(store: IdempotencyStore) -> None:
    store.claim("u", "k", b"body")
    assert store.claim("v", "k", b"body") is None


def test_a_failed_call_frees_its_key(store: IdempotencyStore) -> None:
    store.claim("u", "k", b"body")
    store.free("u", "k")
    assert store.claim("u", "k", b"other") is None


def test_freeing_does_not_delete_an_answer(store: IdempotencyStore) -> None:
    store.claim("u", "k", b"body")
    store.store("u", "k", ANSWER)
    store.free("u", "k")
    assert store.claim("u", "k", b"body") == ANSWER


def test_answers_and_claims_of_the_dead_lapse(store: IdempotencyStore, clock: ManualClock) -> None:
    store.claim("u", "done", b"body")
    store.store("u", "done", ANSWER)
    store.claim("u", "dead", b"body")
    clock.advance(901)
    assert store.claim("u", "done", b"body") is None
    assert store.claim("u", "dead", b"body") is None


def test_two_processes_share_the_answers(tmp_path: Path, clock: ManualClock) -> None:
    first = IdempotencyStore(tmp_path / "a.db", keep_seconds=100, clock=clock)
    second = IdempotencyStore(tmp_path / "a.db", keep_seconds=100, clock=clock)
    assert first.claim("u", "k", b"body") is None
    with pytest.raises(InFlightError):
        second.claim("u", "k", b"body")
    first.store("u", "k", ANSWER)
    assert second.claim("u", "k", b"body") == ANSWER
    first.close()
    second.close()


def test_an_answer_too_large_to_keep_frees_the_key(store: IdempotencyStore) -> None:
    store.claim("u", "k", b"body")
    store.store("u", "k", StoredAnswer(200, "x", b"x" * (4 * 1024 * 1024 + 1)))
    assert store.claim("u", "k", b"body") is None
