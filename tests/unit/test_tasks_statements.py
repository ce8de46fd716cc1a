"""The ledger's statements go by its indexes: none of them reads a million rows to find one."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Connection, event
from tests.support.clock import ManualClock

from sparkle.tasks.ledger import Ledger
from sparkle.tasks.ledger.statements import statements
from sparkle.tasks.record import TaskFilter
from sparkle.tasks.states import TaskState


@pytest.fixture(scope="module")
def connection(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Connection]:
    with (
        Ledger.open(tmp_path_factory.mktemp("ledger"), clock=ManualClock()) as ledger,
        ledger.read() as opened,
    ):
        yield opened


def plan(connection: Connection, statement: str) -> list[str]:
    plain = re.sub(r":(\w+)", "NULL", statement)
    return [row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {plain}")]


@pytest.mark.parametrize("name", sorted(statements("sqlite")))
def test_no_statement_walks_the_whole_table(connection: Connection, name: str) -> None:
    for step in plan(connection, statements("sqlite")[name].text):
        whole = re.match(r"SCAN (?:sparkle_task|t)(?: USING (?:COVERING )?INDEX (\w+))?$", step)
        assert whole is None or (whole[1] or "").startswith("ix_sparkle_task_"), step


@pytest.mark.parametrize(
    "name", ["queued", "count_pending", "count_queued", "count_running", "count_finished", "anything_expired"]
)
def test_what_is_asked_often_is_answered_by_an_index_alone(connection: Connection, name: str) -> None:
    steps = [step for step in plan(connection, statements("sqlite")[name].text) if "sparkle_task" in step]
    assert steps
    assert all("COVERING INDEX" in step or name == "anything_expired" for step in steps), steps


@pytest.mark.parametrize(
    ("where", "index"),
    [
        (TaskFilter(user_id="alice"), "ix_sparkle_task_user"),
        (TaskFilter(user_id="alice", states=frozenset({TaskState.RUNNING})), "ix_sparkle_task_user"),
        (TaskFilter(name="work"), "ix_sparkle_task_name"),
        (TaskFilter(states=frozenset({TaskState.FAILED})), "ix_sparkle_task_failed"),
        (TaskFilter(), "sqlite_autoindex_sparkle_task_1"),
    ],
)
def test_a_page_is_read_in_the_order_of_its_index(tmp_path: Path, where: TaskFilter, index: str) -> None:
    asked: list[tuple[str, tuple[object, ...]]] = []

    def note(_c: object, _cursor: object, statement: str, parameters: tuple[object, ...], *_: object) -> None:
        asked.append((statement, parameters))

    with Ledger.open(tmp_path, clock=ManualClock()) as ledger:
        event.listen(ledger.engine, "before_cursor_execute", note)
        ledger.find(where, cursor="0")
        statement, parameters = next(entry for entry in asked if entry[0].startswith("SELECT"))
        with ledger.read() as connection:
            steps = [
                row[3] for row in connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {statement}", parameters)
            ]
    assert any(index in step for step in steps), steps
    assert not any("B-TREE" in step for step in steps)


def test_both_databases_have_the_same_statements() -> None:
    assert statements("sqlite").keys() == statements("postgresql").keys()
    assert all(
        "{{" not in clause.text for kind in ("sqlite", "postgresql") for clause in statements(kind).values()
    )
