"""``sparkle tasks``: usable by people and by programs, on the real ledger."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Generator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from tests.support.clock import ManualClock

from sparkle.cli import main
from sparkle.errors import InvalidRequestError
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.record import Claim, Failure, NewTask, TaskFilter, TaskRecord
from sparkle.tasks.states import TaskMode, TaskState
from sparkle.tasks.views import duration, parse_since

QUEUE = "sparkle.default.sync"
HOUR = 3_600_000_000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def ledger(folder: Path) -> Generator[Ledger]:
    with Ledger.open(folder) as opened:
        yield opened


def tasks(folder: Path, *args: str) -> Result:
    return CliRunner().invoke(main, ("tasks", *args, "--data-dir", str(folder)))


def as_json(result: Result) -> Any:
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def added(ledger: Ledger, name: str = "send_mail", **fields: Any) -> TaskRecord:
    return ledger.add([NewTask(name=name, queue=QUEUE, **fields)])[0]


def claimed(ledger: Ledger, record: TaskRecord) -> Claim:
    ledger.hand_over({record.queue: 100})
    [claim] = ledger.claim([record.id], "worker-1", 60.0)
    ledger.take_back(queue=record.queue)
    return claim


def failed(ledger: Ledger, name: str = "send_mail") -> TaskRecord:
    record = added(ledger, name)
    ledger.fail(claimed(ledger, record), Failure("SMTPError", "no route to host"), None)
    return record


def short(ledger: Ledger, state: TaskState = TaskState.SUCCEEDED) -> TaskRecord:
    now = ledger.now()
    record = TaskRecord(
        id="01a00000-0000-7000-8000-000000000001",
        mode=TaskMode.SHORT,
        name="embed",
        state=state,
        attempt=1,
        created_at=now - HOUR,
        due_at=now - HOUR,
        started_at=now - HOUR,
        finished_at=now - HOUR + 12_000 if state.finished else None,
        lease_owner="manager-1",
    )
    ledger.write_short([record])
    return record


def test_tasks_of_both_modes_are_listed_the_newest_first(folder: Path, ledger: Ledger) -> None:
    first, second, dead = short(ledger), added(ledger, user_id="ann"), failed(ledger)
    listed = as_json(tasks(folder, "list", "--json"))
    assert [row["id"] for row in listed["tasks"]] == [dead.id, second.id, first.id]
    assert [row["state"] for row in listed["tasks"]] == ["failed", "waiting", "succeeded"]
    assert listed["tasks"][2]["took"] == "12 ms"
    assert listed["next_cursor"] is None
    lines = tasks(folder, "list").stdout.splitlines()
    assert lines[1].split("\t")[:3] == [second.id, "send_mail", "ann"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--state", "failed"], {"dead"}),
        (["--state", "failed,succeeded"], {"dead", "embed"}),
        (["--state", "failed", "--state", "waiting"], {"dead", "mail"}),
        (["--name", "embed"], {"embed"}),
        (["--user", "ann"], {"mail"}),
        (["--mode", "short"], {"embed"}),
        (["--mode", "long"], {"dead", "mail"}),
        (["--queue", QUEUE], {"dead", "mail"}),
        (["--queue", "other"], set[str]()),
        (["--since", "10m"], {"dead", "mail"}),
        (["--until", "10m"], {"embed"}),
    ],
)
def test_filters_choose(folder: Path, ledger: Ledger, options: list[str], expected: set[str]) -> None:
    found = {short(ledger).id: "embed", added(ledger, user_id="ann").id: "mail", failed(ledger).id: "dead"}
    rows = as_json(tasks(folder, "list", "--json", *options))["tasks"]
    assert {found[row["id"]] for row in rows} == expected


def test_pages_follow_each_other(folder: Path, ledger: Ledger) -> None:
    ids = [record.id for record in ledger.add([NewTask(name="t", queue=QUEUE)] * 5)]
    seen: list[str] = []
    cursor: list[str] = []
    for _ in range(3):
        page = as_json(tasks(folder, "list", "--json", "--limit", "2", *cursor))
        seen += [row["id"] for row in page["tasks"]]
        cursor = ["--cursor", str(page["next_cursor"])]
    assert seen == sorted(ids, reverse=True)
    result = tasks(folder, "list", "--limit", "2")
    assert "more: --cursor" in result.stderr


def test_show_tells_everything_with_arguments_and_result(folder: Path, ledger: Ledger) -> None:
    record = added(ledger, args='{"args":[1],"kwargs":{"to":"小明"}}', idempotency_key="k1")
    ledger.complete(claimed(ledger, record), '{"sent":true}')
    shown = as_json(tasks(folder, "show", record.id, "--json"))
    assert (shown["args"], shown["kwargs"]) == ([1], {"to": "小明"})
    assert shown["result"] == {"sent": True}
    assert shown["state"] == "succeeded"
    text = tasks(folder, "show", record.id).stdout
    assert '{"to": "小明"}' in text
    assert "idempotency key   k1" in text
    assert "error" not in text


def test_what_a_task_survived_is_not_shown_as_its_outcome(folder: Path, ledger: Ledger) -> None:
    record = added(ledger)
    claimed(ledger, record)
    ledger.expire(owner="worker-1")
    ledger.complete(claimed(ledger, record), None)
    shown = as_json(tasks(folder, "show", record.id, "--json"))
    assert (shown["state"], shown["crashes"]) == ("succeeded", 1)
    assert (shown["error_type"], shown["error_message"]) == (None, None)
    assert str(shown["earlier_error"]).startswith("WorkerCrashed")
    (row,) = as_json(tasks(folder, "list", "--json"))["tasks"]
    assert row["error"] is None


@pytest.mark.parametrize(("columns", "longest"), [(80, 80), (160, 160)])
def test_a_list_fits_the_terminal(folder: Path, ledger: Ledger, columns: int, longest: int) -> None:
    record = added(ledger, name="send_a_mail_with_a_long_name", user_id="somebody@example.org")
    master, slave = pty.openpty()
    env = {**os.environ, "SPARKLE_DATA_DIR": str(folder), "COLUMNS": str(columns), "TERM": "xterm"}
    command = [sys.executable, "-m", "sparkle.cli", "tasks", "list"]
    done = subprocess.run(command, env=env, stdout=slave, stderr=subprocess.PIPE, check=True)
    os.close(slave)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", os.read(master, 65536).decode()).splitlines()
    os.close(master)
    assert done.stderr == b""
    assert max(map(len, lines)) <= longest
    (row,) = [line for line in lines if record.id in line]
    assert "waiting" in row
    assert ("attempt" in "".join(lines)) == (columns > 100)


def test_an_unknown_task_is_said_in_one_line(folder: Path, ledger: Ledger) -> None:
    result = tasks(folder, "show", "nothing")
    assert result.exit_code == 1
    assert result.stderr == "Error: there is no task 'nothing'\n"


def test_waiting_tasks_are_cancelled_at_once_and_running_ones_are_told(folder: Path, ledger: Ledger) -> None:
    waiting, running = added(ledger), added(ledger)
    claim = claimed(ledger, running)
    other = added(ledger)
    rows = as_json(tasks(folder, "cancel", "--json", other.id, running.id))
    assert [row["state"] for row in rows] == ["cancelled", "cancelling"]
    assert ledger.heartbeat("worker-1", [claim], 60.0).cancel == (running.id,)
    assert ledger.get(waiting.id).state is TaskState.WAITING


def test_what_cannot_be_done_is_said_and_the_rest_is_done(folder: Path, ledger: Ledger) -> None:
    dead, waiting = failed(ledger), added(ledger)
    result = tasks(folder, "cancel", dead.id, "nothing", waiting.id)
    assert result.exit_code == 1
    assert f"{waiting.id} is cancelled" in result.stdout
    assert "is failed and cannot be cancelled" in result.stderr
    assert "no task 'nothing'" in result.stderr


def test_dead_letters_are_replayed_by_name(folder: Path, ledger: Ledger) -> None:
    dead, other = failed(ledger), failed(ledger, "other")
    result = tasks(folder, "replay", "--all", "--name", "send_mail")
    assert result.exit_code == 0
    assert result.stdout.splitlines() == [f"{dead.id} is waiting", "1 tasks"]
    assert ledger.get(other.id).state is TaskState.FAILED


def test_a_retry_need_not_wait_for_its_time(folder: Path, ledger: Ledger) -> None:
    record = added(ledger)
    ledger.fail(claimed(ledger, record), Failure("E", "m"), ledger.now() + HOUR)
    assert tasks(folder, "retry", "--all").exit_code == 0
    assert ledger.get(record.id).due_at <= ledger.now()


@pytest.mark.parametrize("arguments", [[], ["--all", "some-id"]])
def test_steering_wants_either_ids_or_all(folder: Path, ledger: Ledger, arguments: list[str]) -> None:
    result = tasks(folder, "cancel", *arguments)
    assert result.exit_code == 2
    assert "--all" in result.stderr


def test_old_tasks_are_purged_and_new_ones_stay(folder: Path, ledger: Ledger) -> None:
    old, new = short(ledger), failed(ledger)
    assert as_json(tasks(folder, "purge", "--older-than", "10m", "--json")) == {"deleted": 1}
    assert [record.id for record in ledger.find(TaskFilter()).records] == [new.id]
    assert old.id != new.id
    assert tasks(folder, "purge", "--older-than", "0s", "--state", "succeeded").stdout == "0 tasks deleted\n"


def test_migrating_says_what_was_done(folder: Path) -> None:
    first = as_json(tasks(folder, "migrate", "--json"))
    assert first["before"] is None
    assert first["after"]
    assert "already" in tasks(folder, "migrate").stdout


def test_watch_off_a_terminal_looks_once(folder: Path, ledger: Ledger) -> None:
    record = added(ledger, user_id="ann")
    claim = claimed(ledger, record)
    from sparkle.tasks.record import Progress

    ledger.report_progress([Progress(claim, 0.25, "a quarter")])
    added(ledger)
    ledger.announce("relay-1", "relay", 60.0, info={"host": "h", "pid": 7})
    lines = tasks(folder, "watch").stdout.splitlines()
    assert lines[0] == "1 waiting, 1 running"
    assert lines[1].startswith(f"{QUEUE}: 1 waiting, 0 queued, 1 running, oldest ")
    assert "25% a quarter" in lines[2]
    seen = as_json(tasks(folder, "watch", "--json"))
    assert seen["unfinished"] == 2
    assert seen["running"][0]["user"] == "ann"
    assert seen["processes"][0]["kind"] == "relay"
    narrowed = as_json(tasks(folder, "watch", "--json", "--name", "other"))
    assert (narrowed["unfinished"], narrowed["running"]) == (0, [])


def test_watch_on_a_terminal_ends_when_all_is_done(folder: Path, ledger: Ledger) -> None:
    claim = claimed(ledger, added(ledger))
    outside, inside = pty.openpty()
    command = [sys.executable, "-m", "sparkle.cli", "tasks", "watch", "--until-idle", "--interval", "0.1"]
    with subprocess.Popen(
        [*command, "--data-dir", str(folder)],
        stdout=inside,
        stderr=subprocess.PIPE,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "150"},
    ) as process:
        os.close(inside)
        shown = _read_until(outside, b"running 1")
        ledger.complete(claim, None)
        shown += _read_until(outside, b"succeeded 1")
        assert process.wait(30) == 0
        assert process.stderr is not None
        assert process.stderr.read() == b""
    os.close(outside)
    assert b"send_mail" in shown


def _read_until(terminal: int, wanted: bytes) -> bytes:
    seen = b""
    while wanted not in seen:
        part = os.read(terminal, 65536)
        assert part, seen
        seen += part
    return seen


@pytest.mark.parametrize(
    ("text", "ago"), [("90s", 90), ("15m", 900), ("2h", 7_200), ("7d", 604_800), ("1W", 604_800)]
)
def test_an_age_is_a_moment(text: str, ago: int) -> None:
    now = round(ManualClock().now() * 1_000_000)
    assert parse_since(text, now) == now - ago * 1_000_000


def test_a_time_without_a_zone_is_in_utc() -> None:
    assert parse_since("2026-11-23T08:00", 0) == parse_since("2026-11-23T16:00+08:00", 0)
    with pytest.raises(InvalidRequestError, match="--since must be an age"):
        parse_since("yesterday", 0, param="--since")


@pytest.mark.parametrize(
    ("microseconds", "text"),
    [
        (None, None),
        (-5, "0 ms"),
        (12_400, "12 ms"),
        (3_440_000, "3.4 s"),
        (125_000_000, "2 m 05 s"),
        (5_400_000_000, "1 h 30 m"),
        (273_600_000_000, "3 d 4 h"),
    ],
)
def test_durations_are_written_for_people(microseconds: int | None, text: str | None) -> None:
    assert duration(microseconds) == text
