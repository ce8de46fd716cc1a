"""The ledger's statements go by its indexes: none of them reads a million rows to find one."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from sqlalchemy import Connection
from tests.support.clock import ManualClock

from sparkle.tasks.ledger import Ledger
from sparkle.tasks.ledger.statements import statements


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
    ("condition", "index"),
    [
        ("user_id = NULL", "ix_sparkle_task_user"),
        ("name = NULL", "ix_sparkle_task_name"),
        ("state = 'failed'", "ix_sparkle_task_failed"),
    ],
)
def test_a_page_is_read_in_the_order_of_its_index(connection: Connection, condition: str, index: str) -> None:
    steps = plan(connection, f"SELECT * FROM sparkle_task WHERE {condition} ORDER BY id DESC LIMIT 51")
    assert any(index in step for step in steps)
    assert not any("B-TREE" in step for step in steps)


def test_both_databases_have_the_same_statements() -> None:
    assert statements("sqlite").keys() == statements("postgresql").keys()
    assert all(
        "{{" not in clause.text for kind in ("sqlite", "postgresql") for clause in statements(kind).values()
    )
