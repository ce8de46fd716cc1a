"""The figures an operator sees of long tasks are what the ledger knows."""

from __future__ import annotations

import os
import re
import sys
import urllib.request
from pathlib import Path

import pytest
from tests.support.tasks_processes import stack

from sparkle.tasks.calls import TaskCall
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.ledger_metrics import DECLARED, METRICS_FILE, RelayFigures, read_file, render, write_file
from sparkle.tasks.record import Failure, NewTask

SAMPLE = re.compile(r"^(\w+)(\{.*\})? (\S+)$", re.MULTILINE)


def values(text: bytes) -> dict[str, float]:
    return {name + labels: float(value) for name, labels, value in SAMPLE.findall(text.decode())}


def test_what_waits_runs_and_died_is_counted(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.add([NewTask(name='a"b', queue="q") for _ in range(5)])
        ids = [task.id for task in ledger.hand_over({"q": 3})]
        claims = ledger.claim(ids[:2], "w1", 60)
        ledger.fail(claims[0], Failure("E", "m"), None)
        ledger.announce("w1", "worker", 60)
        ledger.announce("w0", "worker", -1)
        ledger.learn({'a"b': (20.0, 7)})
        seen = values(render(ledger, RelayFigures(handed_over=3, broker_answers=False)))
    assert seen['sparkle_tasks{state="waiting",queue="q"}'] == 2
    assert seen['sparkle_tasks{state="queued",queue="q"}'] == 1
    assert seen['sparkle_tasks{state="running",queue="q"}'] == 1
    assert seen['sparkle_task_dead_letters{name="a\\"b"}'] == 1
    assert seen['sparkle_task_runs_total{name="a\\"b"}'] == 7
    assert seen['sparkle_task_expected_seconds{name="a\\"b"}'] == 0.02
    assert seen['sparkle_task_processes{kind="worker",alive="yes"}'] == 1
    assert seen['sparkle_task_processes{kind="worker",alive="no"}'] == 1
    assert seen["sparkle_task_relay_handed_over_total"] == 3
    assert seen["sparkle_task_broker_up"] == 0
    assert seen['sparkle_task_oldest_due_seconds{queue="q"}'] >= 0


def test_every_declared_metric_is_shown_with_its_help(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        text = render(ledger, RelayFigures()).decode()
    for metric in DECLARED:
        assert f"# HELP {metric.name} {metric.help}\n# TYPE {metric.name} {metric.kind}\n" in text


def test_names_beyond_the_limit_share_one_series(tmp_path: Path) -> None:
    with Ledger.open(tmp_path) as ledger:
        ledger.learn({f"n{number:04}": (1.0, 1) for number in range(300)})
        seen = values(render(ledger, RelayFigures()))
    assert seen['sparkle_task_runs_total{name="other"}'] == 100
    assert len([name for name in seen if name.startswith("sparkle_task_runs_total")]) == 201


def test_the_figures_of_a_relay_that_is_gone_are_not_passed_on(tmp_path: Path) -> None:
    assert read_file(tmp_path, lambda: 0.0) == b""
    write_file(tmp_path, b"x 1\n")
    written = os.stat(tmp_path / METRICS_FILE).st_mtime
    assert read_file(tmp_path, lambda: written + 59) == b"x 1\n"
    assert read_file(tmp_path, lambda: written + 61) == b""
    assert [path.name for path in tmp_path.iterdir()] == [METRICS_FILE]


@pytest.mark.skipif(sys.platform != "linux", reason="the embedded broker")
def test_a_relay_serves_its_figures_on_a_port_and_finds_queues_that_no_setting_names(tmp_path: Path) -> None:
    with stack(tmp_path) as made:
        made.broker()
        made.tasks.schedule([TaskCall("t.echo", (1,), queue="special")])
        relay = made.start("relay", [sys.executable, "-m", "sparkle.cli", "relay", "--metrics-port", "0"])
        found = made.wait(
            lambda: re.search(r"metrics on (http://\S+)", relay.log.read_text()), "the port is open"
        )
        assert found is not None

        def shown() -> dict[str, float]:
            with urllib.request.urlopen(found[1], timeout=20) as response:
                return values(response.read())

        made.wait(
            lambda: shown().get('sparkle_tasks{state="queued",queue="special"}') == 1, "it is handed over"
        )
        assert shown()["sparkle_task_broker_up"] == 1
        assert (made.data_dir / METRICS_FILE).exists()
        made.worker("--queues=special", concurrency=1)
        assert made.all_ended(1) == {"succeeded": 1}
