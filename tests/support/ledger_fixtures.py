"""Fixtures of the ledger's tests; a module asks for them by ``pytest_plugins = ["tests.support.ledger_fixtures"]``."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.support.ledgers import LedgerHouse, OpenLedger, sqlite_opener, url_opener
from tests.support.postgres import PostgresProcess, running_postgres

from sparkle.tasks.ledger.engine import ledger_url, make_engine
from sparkle.tasks.ledger.migrate import migrate


@pytest.fixture(scope="session")
def task_postgres() -> Iterator[PostgresProcess]:
    """One PostgreSQL for the whole session; every test gets a database of its own in it."""
    with running_postgres() as server:
        yield server


@pytest.fixture(scope="session")
def ledger_template(task_postgres: PostgresProcess) -> str:
    """Name of a database with an empty ledger, to be copied."""
    url = task_postgres.database()
    engine = make_engine(ledger_url(url), synchronous="normal", busy_seconds=5.0)
    migrate(engine)
    engine.dispose()
    return str(ledger_url(url).database)


@pytest.fixture
def postgres_url(task_postgres: PostgresProcess, ledger_template: str) -> str:
    """URL of a PostgreSQL database with an empty ledger."""
    return task_postgres.database(template=ledger_template)


@pytest.fixture(params=["sqlite", "postgresql"])
def ledger_opener(request: pytest.FixtureRequest, tmp_path: Path) -> OpenLedger:
    """Opens another connection to this test's ledger: each test runs once per kind of database."""
    if request.param == "sqlite":
        return sqlite_opener(tmp_path)
    return url_opener(request.getfixturevalue("postgres_url"))


@pytest.fixture
def house(ledger_opener: OpenLedger) -> Iterator[LedgerHouse]:
    """Ledgers over one database and one clock."""
    house = LedgerHouse(ledger_opener)
    yield house
    house.close()
