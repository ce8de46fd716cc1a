"""``sparkle doctor``: every finding on the real part, each with what to do about it."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from click.testing import CliRunner
from tests.support.background import upstream_in_thread
from tests.support.ledgers import short_running
from tests.support.postgres import PostgresProcess, running_postgres
from tests.support.tasks_brokers import running_redis
from tests.support.valkey import running_valkey

from sparkle.cli import main
from sparkle.doctor.findings import Status, examine
from sparkle.settings import Settings
from sparkle.tasks.broker import broker_answers, broker_command
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.ledger.migrate import HEAD
from sparkle.tasks.record import Failure, NewTask
from sparkle.tasks.routing import announcement

NOTHING_LISTENS = "127.0.0.1:1"
SECRET = "hunter2-very-secret"


class Told(NamedTuple):
    """What one run said."""

    exit_code: int
    findings: dict[str, list[dict[str, Any]]]
    output: str

    def of(self, check: str, status: str) -> dict[str, Any]:
        found = [one for one in self.findings.get(check, []) if one["status"] == status]
        assert len(found) == 1, f"{check} is {self.findings.get(check)}"
        return found[0]


@pytest.fixture
def folder() -> Generator[Path]:
    # A short path of its own: the broker's socket stands in it.
    made = Path(tempfile.mkdtemp(prefix="dr"))
    yield made / "data"
    shutil.rmtree(made)


def doctor(folder: Path, *options: str, **settings: str) -> Told:
    env = {f"SPARKLE_{name}": value for name, value in settings.items()}
    env.setdefault("SPARKLE_SERVER__PORT", "1")
    env["SPARKLE_DATA_DIR"] = str(folder)
    result = CliRunner().invoke(main, ("doctor", "--json", *options), env=env)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    told = json.loads(result.stdout)
    findings: dict[str, list[dict[str, Any]]] = {}
    for finding in told["findings"]:
        findings.setdefault(finding["check"], []).append(finding)
        if finding["status"] in ("warning", "failed"):
            assert finding["mend"], f"{finding['check']} does not say how to mend it"
    assert told["healthy"] is (result.exit_code == 0)
    return Told(result.exit_code, findings, result.output)


def test_a_fresh_installation_is_healthy_and_stays_untouched(folder: Path) -> None:
    told = doctor(folder)
    assert told.exit_code == 0, told.output
    told.of("settings", "ok")
    told.of("python", "ok")
    told.of("policy", "ok")
    told.of("extras", "ok")
    told.of("data folder", "note")
    told.of("database", "note")
    told.of("broker", "note")
    assert not folder.exists()


def test_people_get_lines_with_what_to_do(folder: Path) -> None:
    args = ("doctor", "--data-dir", str(folder), "--strict")
    result = CliRunner().invoke(main, args, env={"SPARKLE_TASKS__BROKER_URL": f"redis://{NOTHING_LISTENS}/0"})
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    at = next(number for number, line in enumerate(lines) if line.startswith("XX  broker"))
    assert "does not answer" in lines[at]
    assert lines[at + 1].strip().startswith("-> check SPARKLE_TASKS__BROKER_URL")


def test_every_wrong_setting_is_named(folder: Path) -> None:
    told = doctor(folder, TASKS__LEASE_SECONDS="-1", SERVER__PROT="1")
    assert told.exit_code == 1
    assert len(told.findings["settings"]) == 2
    told.of("python", "ok")


def test_a_folder_that_others_can_read_is_a_warning(folder: Path) -> None:
    folder.mkdir(mode=0o755)
    (folder / "keys.db").touch(mode=0o644)
    told = doctor(folder)
    assert told.exit_code == 0
    warning = told.of("data folder", "warning")
    assert "keys.db" in warning["message"]
    assert "chmod" in warning["mend"]
    assert doctor(folder, "--strict").exit_code == 1
    folder.chmod(0o700)
    doctor(folder, "--strict").of("data folder", "ok")


def test_a_file_in_the_folders_place_fails(folder: Path) -> None:
    folder.touch()
    assert doctor(folder).of("data folder", "failed")


@pytest.mark.parametrize(("free", "status"), [(50e6, "failed"), (500e6, "warning"), (50e9, "ok")])
def test_little_room_on_the_disk_is_said(
    folder: Path, free: float, status: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage("/")._replace(total=100_000_000_000, free=int(free))

    def pretended(path: Path) -> object:
        del path  # a disk that is full cannot be had for a test
        return usage

    monkeypatch.setattr("sparkle.doctor.machine.shutil.disk_usage", pretended)
    doctor(folder).of("disk", status)


# The ledger -------------------------------------------------------------------------------------------------------


def test_a_ledger_of_a_newer_sparkle_fails(folder: Path) -> None:
    with Ledger.open(folder) as ledger, ledger.write() as connection:
        connection.exec_driver_sql("UPDATE sparkle_schema SET version_num = '9999'")
    assert "upgrade" in doctor(folder).of("migrations", "failed")["mend"]


def test_an_older_sqlite_ledger_is_only_noted(folder: Path) -> None:
    with Ledger.open(folder) as ledger, ledger.write() as connection:
        connection.exec_driver_sql("UPDATE sparkle_schema SET version_num = '0000'")
    assert "next start" in doctor(folder).of("migrations", "note")["message"]


def test_a_ledger_that_is_no_database_fails(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    (folder / "tasks.db").write_bytes(b"this is no database" * 100)
    told = doctor(folder)
    assert told.exit_code == 1
    told.of("database", "failed")


def test_who_works_is_told_by_the_ledger(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        told = doctor(folder)
        assert told.exit_code == 0, "nothing waits"
        for kind in ("relay", "worker", "beat"):
            told.of(kind, "note")
        [record] = ledger.add([NewTask(name="send_mail", queue="sparkle.default.sync")])
        told = doctor(folder)
        assert told.exit_code == 1
        assert "1 unfinished tasks wait" in told.of("worker", "failed")["message"]
        assert "sparkle worker" in told.of("worker", "failed")["mend"]
        for kind in ("relay", "worker"):
            ledger.announce(f"{kind}-1", kind, 60.0)
        told = doctor(folder)
        assert told.exit_code == 0
        assert "1 alive" in told.of("worker", "ok")["message"]
        told.of("backlog", "ok")
        ledger.announce("worker-1", "worker", -1.0)
        assert "heard of" in doctor(folder).of("worker", "failed")["message"]
        ledger.hand_over({record.queue: 1})
        [claim] = ledger.claim([record.id], "worker-1", 60.0)
        ledger.fail(claim, Failure("SMTPError", SECRET), None)
        told = doctor(folder)
        assert "send_mail (SMTPError)" in told.of("dead letter", "note")["message"]
        assert SECRET not in told.output
        assert "1 tasks" in told.of("ledger size", "ok")["message"]


def test_a_backlog_is_a_warning(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        for kind in ("relay", "worker"):
            ledger.announce(f"{kind}-1", kind, 60.0)
        ledger.add([NewTask(name="t", queue="q", due_at=ledger.now() - 120_000_000)])
    assert "120 s" in doctor(folder).of("backlog", "warning")["message"]


def test_schedules_without_a_beat_fail(folder: Path) -> None:
    Ledger.open(folder).close()
    entry = json.dumps({"night": {"task": "health_check", "every": 60}})
    assert "1 schedules" in doctor(folder, TASKS__SCHEDULES=entry).of("beat", "failed")["message"]


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresProcess]:
    with running_postgres() as server:
        yield server


def test_postgresql_is_looked_at_and_mended_as_the_doctor_says(
    folder: Path, postgres: PostgresProcess
) -> None:
    url = postgres.database()
    told = doctor(folder, TASKS__DATABASE_URL=url)
    assert told.exit_code == 1
    assert told.of("migrations", "failed")["mend"] == "sparkle tasks migrate"
    done = CliRunner().invoke(main, ("tasks", "migrate"), env={"SPARKLE_TASKS__DATABASE_URL": url})
    assert done.exit_code == 0, done.output
    told = doctor(folder, TASKS__DATABASE_URL=url)
    assert told.exit_code == 0, told.output
    assert HEAD in told.of("migrations", "ok")["message"]
    told.of("clock", "ok")
    told.of("database", "ok")


def test_a_database_that_is_not_there_fails_without_its_password(folder: Path) -> None:
    url = f"postgresql://ann:{SECRET}@{NOTHING_LISTENS}/tasks"
    told = doctor(folder, TASKS__DATABASE_URL=url)
    told.of("database", "failed")
    assert SECRET not in told.output


# The broker -------------------------------------------------------------------------------------------------------


def test_a_broker_that_keeps_nothing_is_a_warning(folder: Path) -> None:
    with running_valkey() as server:
        told = doctor(folder, TASKS__BROKER_URL=server.url)
    told.of("broker", "ok")
    assert "appendonly yes" in told.of("broker", "warning")["mend"]


def test_an_external_redis_with_little_memory_is_asked_for_its_policy(folder: Path) -> None:
    import redis

    with running_redis() as url:
        client: Any = redis.Redis.from_url(url)  # pyright: ignore[reportUnknownMemberType]  untyped
        client.config_set("maxmemory", "100mb")
        client.config_set("maxmemory-policy", "allkeys-lru")
        client.config_set("appendonly", "yes")
        client.close()
        told = doctor(folder, TASKS__BROKER_URL=url)
    assert "allkeys-lru" in told.of("broker", "warning")["message"]


def test_the_embedded_broker_is_persistent(folder: Path) -> None:
    folder.mkdir(mode=0o700)
    process = subprocess.Popen(broker_command(folder))
    try:
        give_up = time.monotonic() + 20
        while not broker_answers(folder):
            assert process.poll() is None
            assert time.monotonic() < give_up
            time.sleep(0.02)  # waits for another process, not for time to pass
        told = doctor(folder, "--strict")
        assert "embedded" in told.of("broker", "ok")["message"]
        assert told.exit_code == 0, told.output
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_does_not_answer_fails_without_its_password(folder: Path, scheme: str) -> None:
    told = doctor(folder, TASKS__BROKER_URL=f"{scheme}://ann:{SECRET}@{NOTHING_LISTENS}/")
    assert told.exit_code == 1
    assert NOTHING_LISTENS in told.of("broker", "failed")["message"]
    assert SECRET not in told.output


# Upstream and gateway ---------------------------------------------------------------------------------------------


def test_an_upstream_that_answers_is_well(folder: Path) -> None:
    with upstream_in_thread() as upstream:
        told = doctor(folder, PROVIDER__UPSTREAM=upstream.url)
    told.of("upstream default", "ok")


def test_an_upstream_that_does_not_answer_fails(folder: Path) -> None:
    told = doctor(folder, PROVIDER__UPSTREAM=f"http://{NOTHING_LISTENS}/v1")
    assert told.exit_code == 1
    told.of("upstream default", "failed")


def test_an_upstream_that_refuses_the_key_fails_without_showing_it(folder: Path) -> None:
    with upstream_in_thread() as upstream:
        upstream.models_status = 401
        entry = [{"name": "one", "base_url": upstream.url, "api_key": SECRET}]
        told = doctor(folder, PROVIDER__UPSTREAMS=json.dumps(entry))
    assert upstream.requests[0].headers["authorization"] == f"Bearer {SECRET}"
    assert "refuses the key" in told.of("upstream one", "failed")["message"]
    assert SECRET not in told.output


def test_a_key_whose_variable_is_not_set_fails(folder: Path) -> None:
    entry = [{"name": "one", "base_url": "http://127.0.0.1:1/v1", "api_key_env": "NO_SUCH_VARIABLE"}]
    told = doctor(folder, PROVIDER__UPSTREAMS=json.dumps(entry))
    assert "export NO_SUCH_VARIABLE" in told.of("upstream one", "failed")["mend"]


def test_whether_somebody_listens_on_the_gateways_port_is_said(folder: Path) -> None:
    told = doctor(folder, SERVER__PORT="1", SERVER__HOST="0.0.0.0", SERVER__REQUIRE_KEYS="false")
    told.of("gateway", "note")
    assert "REQUIRE_KEYS" in told.of("gateway", "warning")["mend"]
    with socket.create_server(("127.0.0.1", 0)) as server:
        doctor(folder, SERVER__PORT=str(server.getsockname()[1])).of("gateway", "ok")


def test_a_check_that_crashes_hides_no_other() -> None:
    def crash(settings: Settings) -> list[Any]:
        raise RuntimeError(SECRET)

    [finding] = examine("odd", crash, Settings())
    assert finding.status is Status.FAILED
    assert finding.message == "could not be checked: RuntimeError"


def test_short_tasks_are_no_backlog_of_the_workers(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        ledger.announce("m", "manager", 60.0)
        short_running(ledger, "m")
        told = doctor(folder)
    assert told.exit_code == 0
    told.of("worker", "note")
    assert "0 tasks are unfinished" in told.of("backlog", "ok")["message"]


def test_killed_workers_are_told_from_those_that_left(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        ledger.add([NewTask(name="t", queue="q")])
        ledger.announce("left", "worker", 60.0)
        ledger.leave("left")
        assert "stopped in order" in doctor(folder).of("worker", "failed")["message"]
        ledger.announce("killed", "worker", -1.0)
        assert "1 were killed" in doctor(folder).of("worker", "failed")["message"]
        ledger.announce("alive", "worker", 60.0)
        assert "1 alive" in (message := doctor(folder).of("worker", "ok")["message"])
        assert "1 were killed" in message


def test_tasks_that_no_live_worker_knows_are_named(folder: Path) -> None:
    with Ledger.open(folder) as ledger:
        ledger.announce("relay", "relay", 60.0)
        ledger.announce("w", "worker", 60.0, info=announcement(["known"], ["q"], "edition"))
        ledger.add([NewTask(name="known", queue="q"), NewTask(name="newer", queue="q")])
        found = doctor(folder).of("task names", "warning")
    assert "newer" in found["message"]
    assert "known," not in found["message"]


def test_modules_with_tasks_are_imported_elsewhere_and_judged(folder: Path) -> None:
    modules = json.dumps(["tests.support.tasks_sample", "json.decoder", "no_such_module"])
    told = doctor(folder, TASKS__MODULES=modules)
    assert told.exit_code == 1
    assert "tests.support.tasks_sample registers" in told.of("task modules", "ok")["message"]
    assert "json.decoder registers no task" in told.of("task modules", "warning")["message"]
    found = told.of("task modules", "failed")
    assert "no_such_module cannot be imported (ModuleNotFoundError)" in found["message"]
    assert "SPARKLE_TASKS__MODULES" in found["mend"]


def test_whoever_closes_the_pipe_is_not_told_of_it(folder: Path) -> None:
    env = {**os.environ, "SPARKLE_DATA_DIR": str(folder), "SPARKLE_SERVER__PORT": "1"}
    command = [sys.executable, "-m", "sparkle.cli", "doctor"]
    with subprocess.Popen(
        command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as told:
        assert told.stdout is not None
        assert told.stderr is not None
        assert told.stdout.readline()
        told.stdout.close()
        assert told.stderr.read() == ""
