"""Fixtures of the quota tests; a module asks for them by ``pytest_plugins = ["tests.support.quota_fixtures"]``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from tests.support.quota import House, OpenStore, sqlite_opener, valkey_opener
from tests.support.valkey import ValkeyProcess, running_valkey


@pytest.fixture(scope="session")
def quota_valkey() -> Iterator[ValkeyProcess]:
    """One Valkey for the whole session; every test gets a prefix of its own in it."""
    with running_valkey() as server:
        yield server


@pytest.fixture(params=["sqlite", "valkey"])
def quota_opener(request: pytest.FixtureRequest, tmp_path: Path) -> OpenStore:
    """Opens another connection to this test's store: each test runs once per kind of store."""
    if request.param == "sqlite":
        return sqlite_opener(tmp_path / "quota.db")
    server: ValkeyProcess = request.getfixturevalue("quota_valkey")
    return valkey_opener(server.url)


@pytest.fixture
async def house(quota_opener: OpenStore) -> AsyncIterator[House]:
    """Guards over one store and one clock."""
    house = House(quota_opener)
    yield house
    await house.close()
