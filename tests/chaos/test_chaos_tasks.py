"""The quick form of ``make chaos``: one round of those faults that no other test strikes with, and on PostgreSQL."""

from __future__ import annotations

import sys
from collections.abc import Generator

import pytest
from tests.chaos.driver import Plan, run
from tests.support.postgres import PostgresProcess, running_postgres

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc, mounts a small disk")

TASKS = 60


@pytest.fixture(scope="module")
def postgres() -> Generator[PostgresProcess]:
    with running_postgres() as server:
        yield server


@pytest.mark.slow
@pytest.mark.parametrize(
    "fault", ["server", "broker-memory", "disk-full", "deploy-quit", "two-versions", "failures"]
)
def test_nothing_is_lost_stuck_or_done_twice(fault: str) -> None:
    (result,) = run(Plan(fault, rounds=1, tasks=TASKS, quick_leases=True))
    assert result.kept(fault), result


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["worker-group", "relay", "broker"])
def test_nor_with_postgresql(fault: str, postgres: PostgresProcess) -> None:
    from sparkle.tasks.ledger.engine import ledger_url, make_engine
    from sparkle.tasks.ledger.migrate import migrate

    url = postgres.database()
    engine = make_engine(ledger_url(url), synchronous="normal", busy_seconds=10.0)
    migrate(engine)
    engine.dispose()
    (result,) = run(Plan(fault, rounds=1, tasks=TASKS, quick_leases=True, database_url=url))
    assert result.kept(fault), result
