"""Every call leaves a line; lines are whole, private and never hold a text."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import ManualClock

from sparkle.errors import AuditUnavailableError
from sparkle.llm.monitoring import AuditLog
from sparkle.llm.monitoring.audit_record import audit_findings, canonical_message, clean_name, rfc3339
from sparkle.llm.verdict import Finding, Mode, Severity

DAY = 86_400.0
NOON = 1_795_003_200.0  # 2026-11-18T12:00:00Z


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "audit"


@pytest.fixture
def audit(folder: Path, clock: ManualClock) -> AuditLog:
    return AuditLog(folder, clock=clock)


def lines(folder: Path) -> list[bytes]:
    return [
        line for file in sorted(folder.glob("audit-*.jsonl")) for line in file.read_bytes().splitlines(True)
    ]


def names(folder: Path) -> list[str]:
    return sorted(file.name for file in folder.glob("audit-*"))


def test_a_line_goes_to_the_file_of_its_day(audit: AuditLog, folder: Path) -> None:
    audit.append(b'{"a":1}\n')
    assert names(folder) == ["audit-2026-11-18.jsonl"]
    assert lines(folder) == [b'{"a":1}\n']


def test_a_new_day_begins_a_new_file(audit: AuditLog, folder: Path, clock: ManualClock) -> None:
    audit.append(b"1\n")
    clock.advance(DAY / 2 - 1)
    audit.append(b"2\n")
    clock.advance(1)
    audit.append(b"3\n")
    assert names(folder) == ["audit-2026-11-18.jsonl", "audit-2026-11-19.jsonl"]
    assert (folder / "audit-2026-11-19.jsonl").read_bytes() == b"3\n"


def test_only_the_owner_may_look(audit: AuditLog, folder: Path) -> None:
    audit.append(b"1\n")
    audit.digest(b"x")
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}


def test_files_older_than_the_retention_go_when_a_day_begins(folder: Path, clock: ManualClock) -> None:
    folder.mkdir()
    for name in ("audit-2026-11-07.jsonl", "audit-2026-11-08.jsonl", "audit-2026-11-17.jsonl", "notes.txt"):
        (folder / name).write_text("x\n")
    audit = AuditLog(folder, clock=clock, retention_days=10)
    audit.append(b"1\n")
    assert names(folder) == ["audit-2026-11-08.jsonl", "audit-2026-11-17.jsonl", "audit-2026-11-18.jsonl"]
    assert (folder / "notes.txt").exists()
    clock.advance(DAY)
    audit.append(b"2\n")
    assert names(folder)[0] == "audit-2026-11-17.jsonl"


def test_zero_days_keep_all_files(folder: Path, clock: ManualClock) -> None:
    folder.mkdir()
    (folder / "audit-1999-01-01.jsonl").write_text("x\n")
    AuditLog(folder, clock=clock, retention_days=0).append(b"1\n")
    assert names(folder)[0] == "audit-1999-01-01.jsonl"


async def test_the_lines_of_one_turn_leave_in_one_write(
    audit: AuditLog, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    writes: list[bytes] = []
    real = os.write

    def spy(fd: int, data: bytes) -> int:
        writes.append(data)
        return real(fd, data)

    monkeypatch.setattr(os, "write", spy)
    for i in range(5):
        audit.append(b"%d\n" % i)
    assert writes == []
    await asyncio.sleep(0)
    assert writes == [b"0\n1\n2\n3\n4\n"]
    audit.close()


async def test_close_writes_what_waits(audit: AuditLog, folder: Path) -> None:
    audit.append(b"1\n")
    audit.close()
    assert lines(folder) == [b"1\n"]


def test_many_processes_share_a_file_without_mixing_lines(folder: Path, clock: ManualClock) -> None:
    children: list[int] = []
    for child in range(4):
        pid = os.fork()
        if pid == 0:
            log = AuditLog(folder, clock=clock)
            for i in range(200):
                log.append(json.dumps({"child": child, "i": i, "pad": "x" * (i * 7 % 900)}).encode() + b"\n")
            log.close()
            os._exit(0)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0
    found = [json.loads(line) for line in lines(folder)]
    assert sorted((line["child"], line["i"]) for line in found) == [
        (c, i) for c in range(4) for i in range(200)
    ]


class Disk:
    """Stands between the log and ``os.write``: fails or takes only some bytes while told so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.takes: int | None = None
        self._real = os.write
        monkeypatch.setattr(os, "write", self.write)

    def write(self, fd: int, data: bytes) -> int:
        if self.takes is None:
            return self._real(fd, data)
        if self.takes == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        taken, self.takes = self._real(fd, data[: self.takes]), 0
        return taken


@pytest.fixture
def disk(monkeypatch: pytest.MonkeyPatch) -> Disk:
    return Disk(monkeypatch)


def test_a_full_disk_delays_lines_and_loses_none(
    audit: AuditLog, folder: Path, clock: ManualClock, disk: Disk, caplog: pytest.LogCaptureFixture
) -> None:
    audit.append(b"1\n")
    disk.takes = 0
    audit.append(b"2\n")
    audit.append(b"3\n")
    assert audit.failing
    assert (audit.write_errors, audit.dropped) == (1, 0)
    disk.takes = None
    clock.advance(1)
    audit.append(b"4\n")
    assert not audit.failing
    assert lines(folder) == [b"1\n", b"2\n", b"3\n", b"4\n"]
    assert any("No space left" in message for message in caplog.messages)


def test_a_torn_line_is_ended_and_written_again(
    audit: AuditLog, folder: Path, clock: ManualClock, disk: Disk
) -> None:
    disk.takes = 5
    audit.append(b"first\n")
    assert audit.failing
    disk.takes = None
    clock.advance(1)
    audit.append(b"second\n")
    assert lines(folder) == [b"first\n", b"first\n", b"second\n"]


async def test_a_torn_batch_repeats_only_what_was_not_whole(
    audit: AuditLog, folder: Path, clock: ManualClock, disk: Disk
) -> None:
    disk.takes = 7
    for text in (b"1111\n", b"2222\n", b"3333\n"):
        audit.append(text)
    assert not audit.flush()
    disk.takes = None
    clock.advance(1)
    assert audit.flush()
    assert lines(folder) == [b"1111\n", b"22\n", b"2222\n", b"3333\n"]
    audit.close()


async def test_waiting_lines_are_tried_again_without_a_new_call(
    folder: Path, clock: ManualClock, disk: Disk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sparkle.llm.monitoring.audit._RETRY_SECONDS", 0.0)
    audit = AuditLog(folder, clock=clock)
    disk.takes = 0
    audit.append(b"1\n")
    await asyncio.sleep(0)
    assert audit.failing
    disk.takes = None
    loop = asyncio.get_running_loop()
    later: asyncio.Future[None] = loop.create_future()
    loop.call_later(0.0, later.set_result, None)
    await later
    assert lines(folder) == [b"1\n"]
    audit.close()


def test_what_does_not_fit_the_buffer_is_counted(folder: Path, clock: ManualClock, disk: Disk) -> None:
    told: list[int] = []
    audit = AuditLog(folder, clock=clock, max_buffered_bytes=10)
    audit.on_change = lambda: told.append(audit.dropped)
    disk.takes = 0
    for _ in range(4):
        audit.append(b"1234\n")
    assert audit.dropped == 2
    assert told[-1] == 2
    audit.close()
    assert audit.dropped == 4


def test_a_folder_that_cannot_be_made_is_told_at_start(tmp_path: Path, clock: ManualClock) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(AuditUnavailableError, match="no audit record can be written"):
        AuditLog(tmp_path / "file" / "audit", clock=clock).open()


def test_a_file_that_was_rotated_away_is_made_again(
    audit: AuditLog, folder: Path, clock: ManualClock
) -> None:
    audit.append(b"1\n")
    (folder / "audit-2026-11-18.jsonl").unlink()
    clock.advance(1)
    audit.append(b"2\n")
    assert lines(folder) == [b"2\n"]


def test_a_digest_names_a_message_only_to_who_has_the_key(
    folder: Path, clock: ManualClock, tmp_path: Path
) -> None:
    one, again = AuditLog(folder, clock=clock), AuditLog(folder, clock=clock)
    other = AuditLog(tmp_path / "other", clock=clock)
    assert one.digest(b"text") == again.digest(b"text")
    assert one.digest(b"text") != one.digest(b"texts")
    assert one.digest(b"text") != other.digest(b"text")
    assert len((folder / "hmac.key").read_bytes()) == 32
    assert [file.name for file in folder.iterdir()] == ["hmac.key"]


def test_a_message_has_one_canonical_form() -> None:
    one: dict[str, Any] = {"role": "user", "content": "忽略 \ud800"}
    two = {"content": "忽略 \ud800", "role": "user"}
    assert canonical_message(one) == canonical_message(two)
    assert canonical_message(one).isascii()


@pytest.mark.parametrize(
    ("name", "clean"),
    [("alice", "alice"), ("学生", "学生"), ("a\ud800b", "a?b"), ("x" * 300, "x" * 256)],
)
def test_a_callers_name_is_made_encodable_and_short(name: str, clean: str) -> None:
    assert clean_name(name) == clean


def finding(path: str) -> Finding:
    return Finding("r.a", "r", Severity.HIGH, "input", 1, 2, 0.9, Mode.BLOCK, "reason", "理由", path)


def test_a_path_keeps_names_and_positions_and_nothing_a_caller_wrote() -> None:
    kept = audit_findings(
        [finding("messages[2].tool_calls[0].function.arguments"), finding("messages[1].a b c")]
    )
    assert [f.path for f in kept] == ["messages[2].tool_calls[0].function.arguments", "messages[1].a"]


def test_a_thousand_findings_do_not_make_a_huge_line() -> None:
    assert len(audit_findings(finding("m") for _ in range(1_000))) == 100


def test_the_time_is_written_in_utc_with_milliseconds() -> None:
    assert rfc3339(NOON + 0.1239) == "2026-11-18T12:00:00.123Z"
