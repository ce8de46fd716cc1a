"""A key is shown once, stored as a digest, and refused from the moment it is revoked."""

from __future__ import annotations

import os
import re
import sqlite3
import stat
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.clock import ManualClock

from sparkle.errors import (
    AuthenticationError,
    InvalidRequestError,
    KeyStoreUnavailableError,
    NotFoundError,
)
from sparkle.llm.usage import Principal
from sparkle.server.key_info import parse_expiry
from sparkle.server.keys import KeyStore

DAY = 86_400.0


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def store(tmp_path: Path, clock: ManualClock) -> KeyStore:
    return KeyStore(tmp_path / "data" / "keys.db", clock=clock)


def test_a_key_has_the_documented_form(store: KeyStore) -> None:
    key_id, key = store.create("alice")
    assert re.fullmatch(r"sk-sparkle-[a-z0-9]{12}-[A-Za-z0-9_-]{43}", key)
    assert key.startswith(f"sk-sparkle-{key_id}-")


def test_a_key_tells_whom_it_belongs_to(store: KeyStore) -> None:
    key_id, key = store.create("alice", team="maths", name="notebook", models=["gpt-4o*", "local"])
    assert store.verify(key) == Principal("alice", "maths", key_id, ("gpt-4o*", "local"))


def test_a_key_works_at_once_in_the_process_that_made_it(store: KeyStore) -> None:
    _, first = store.create("alice")
    store.verify(first)
    _, second = store.create("bob")
    assert store.verify(second).user == "bob"


def test_the_secret_is_nowhere_in_the_file(store: KeyStore) -> None:
    _, key = store.create("alice")
    secret = key.rsplit("-", 1)[-1] if "-" not in key[24:] else key[24:]
    for file in store.path.parent.iterdir():
        assert secret.encode() not in file.read_bytes()


def test_only_the_owner_reads_the_file(store: KeyStore) -> None:
    store.create("alice")
    store.ready()
    for file in store.path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(store.path.parent.stat().st_mode) == 0o700


def changed(key: str, index: int) -> str:
    return key[:index] + ("a" if key[index] != "a" else "b") + key[index + 1 :]


def test_a_key_with_any_other_character_is_refused(store: KeyStore) -> None:
    _, key = store.create("alice")
    for index in range(len(key)):
        with pytest.raises(AuthenticationError):
            store.verify(changed(key, index))
    for other in ("", "sk-sparkle-", key[:-1], key + "a", key.upper(), f" {key}", key.replace("-", "_")):
        with pytest.raises(AuthenticationError):
            store.verify(other)


def test_a_refusal_does_not_tell_an_unknown_key_from_a_wrong_secret(store: KeyStore) -> None:
    _, key = store.create("alice")
    messages: set[str] = set()
    for wrong in (changed(key, 12), changed(key, 50), "x"):
        with pytest.raises(AuthenticationError) as caught:
            store.verify(wrong)
        messages.add(caught.value.message)
    assert len(messages) == 1


@given(st.text(max_size=80))
def test_whatever_is_presented_is_refused_without_a_crash(text: str) -> None:
    store = KeyStore("/nonexistent/keys.db", clock=ManualClock())
    with pytest.raises(AuthenticationError):
        store.verify(text)


def test_a_revoked_key_is_refused_at_once_here(store: KeyStore) -> None:
    key_id, key = store.create("alice")
    store.verify(key)
    store.revoke(key_id)
    with pytest.raises(AuthenticationError, match="revoked"):
        store.verify(key)


def test_another_process_refuses_a_revoked_key_within_the_refresh_time(
    store: KeyStore, clock: ManualClock
) -> None:
    key_id, key = store.create("alice")
    other = KeyStore(store.path, clock=clock, refresh_seconds=0.25)
    other.verify(key)
    store.revoke(key_id)
    other.verify(key)  # not looked at again yet
    clock.advance(0.25)
    with pytest.raises(AuthenticationError):
        other.verify(key)


def test_another_process_sees_a_new_key_within_the_refresh_time(store: KeyStore, clock: ManualClock) -> None:
    other = KeyStore(store.path, clock=clock, refresh_seconds=0.25)
    with pytest.raises(AuthenticationError):
        other.verify("x")  # before there is a file
    _, key = store.create("alice")
    clock.advance(0.25)
    assert other.verify(key).user == "alice"


def test_an_unchanged_file_is_not_read_again(store: KeyStore, clock: ManualClock) -> None:
    _, key = store.create("alice")
    one = store.verify(key)
    clock.advance(60)
    assert store.verify(key) is one  # the same object: the table was not built anew


def test_revoking_twice_keeps_the_first_time(store: KeyStore, clock: ManualClock) -> None:
    key_id, _ = store.create("alice")
    first = store.revoke(key_id)
    clock.advance(100)
    assert store.revoke(key_id) == first
    assert store.list() == (first,)


def test_an_unknown_id_cannot_be_revoked(store: KeyStore) -> None:
    with pytest.raises(NotFoundError):
        store.revoke("nobody")


def test_a_key_ends_when_it_expires(store: KeyStore, clock: ManualClock) -> None:
    _, key = store.create("alice", expires=clock.now() + DAY)
    clock.advance(DAY - 1)
    store.verify(key)
    clock.advance(1)
    with pytest.raises(AuthenticationError, match="expired"):
        store.verify(key)


def test_a_key_cannot_be_made_for_the_past(store: KeyStore, clock: ManualClock) -> None:
    with pytest.raises(InvalidRequestError, match="future"):
        store.create("alice", expires=clock.now())


@pytest.mark.parametrize("user", ["", "a\nb", "\x00", "x" * 257])
def test_a_user_is_a_printable_name(store: KeyStore, user: str) -> None:
    with pytest.raises(InvalidRequestError, match="user"):
        store.create(user)


def test_the_list_tells_the_state_of_every_key(store: KeyStore, clock: ManualClock) -> None:
    store.create("a")
    clock.advance(1)
    store.create("b", expires=clock.now() + 10)
    clock.advance(1)
    gone, _ = store.create("c")
    store.revoke(gone)
    clock.advance(20)
    assert [(key.user, key.state(clock.now())) for key in store.list()] == [
        ("a", "active"),
        ("b", "expired"),
        ("c", "revoked"),
    ]


def test_without_a_file_there_are_no_keys(store: KeyStore) -> None:
    assert store.list() == ()
    store.ready()


def test_a_file_that_is_put_back_from_a_backup_is_read(
    store: KeyStore, clock: ManualClock, tmp_path: Path
) -> None:
    _, old = store.create("alice")
    store.verify(old)
    elsewhere = KeyStore(tmp_path / "backup" / "keys.db", clock=clock)
    _, new = elsewhere.create("bob")
    for suffix in ("-wal", "-shm"):
        Path(f"{store.path}{suffix}").unlink(missing_ok=True)
    os.replace(elsewhere.path, store.path)
    clock.advance(1)
    assert store.verify(new).user == "bob"
    with pytest.raises(AuthenticationError):
        store.verify(old)


def test_an_unreadable_file_refuses_all_once_a_revocation_could_go_unseen(
    store: KeyStore, clock: ManualClock
) -> None:
    _, key = store.create("alice")
    store.verify(key)
    store.path.write_bytes(b"this is not a database" * 100)
    os.utime(store.path)
    replaced = store.path.with_name("broken.db")
    replaced.write_bytes(b"this is not a database" * 1_000)
    os.replace(replaced, store.path)
    clock.advance(1)
    assert store.verify(key).user == "alice"
    clock.advance(5)
    with pytest.raises(KeyStoreUnavailableError):
        store.verify(key)
    with pytest.raises(KeyStoreUnavailableError):
        store.ready()
    with pytest.raises(KeyStoreUnavailableError):
        store.list()


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("")
    with pytest.raises(KeyStoreUnavailableError, match="cannot be written"):
        KeyStore(blocker / "keys.db").create("alice")


def test_a_forked_process_connects_for_itself(store: KeyStore, clock: ManualClock) -> None:
    key_id, key = store.create("alice")
    store.verify(key)
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        code = b"f"
        try:
            clock.advance(1)
            store.verify(key)
            store.revoke(key_id)
            code = b"k"
        finally:
            os.write(writing, code)
            os._exit(0)
    os.waitpid(pid, 0)
    assert os.read(reading, 1) == b"k"
    clock.advance(1)
    with pytest.raises(AuthenticationError, match="revoked"):
        store.verify(key)
    os.close(reading)
    os.close(writing)


def test_a_closed_store_opens_again(store: KeyStore) -> None:
    _, key = store.create("alice")
    store.verify(key)
    store.close()
    assert store.verify(key).user == "alice"
    store.close()


def test_the_file_keeps_digests_of_the_secret_alone(store: KeyStore) -> None:
    store.create("alice")
    store.create("alice")
    with sqlite3.connect(store.path) as db:
        digests = [row[0] for row in db.execute("SELECT digest FROM keys")]
    db.close()
    assert len(set(digests)) == 2
    assert all(len(digest) == 32 for digest in digests)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2_700), ("12h", 43_200), ("30d", 2_592_000), (" 2W ", 1_209_600)],
)
def test_a_duration_counts_from_now(text: str, seconds: int) -> None:
    assert parse_expiry(text, 1_000.0) == 1_000 + seconds


def test_a_date_lasts_to_its_end() -> None:
    assert parse_expiry("1970-01-02", 0.0) == 2 * DAY


@pytest.mark.parametrize("text", ["", "30", "d", "-3d", "1.5h", "soon", "2027-13-01", "٣d"])
def test_anything_else_is_no_expiry(text: str) -> None:
    with pytest.raises(InvalidRequestError, match="30d"):
        parse_expiry(text, 0.0)
