"""A real upstream and a gateway in front of it, for the tests of the doors."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from pathlib import Path

import pytest
from tests.support.gateway import InProcessGateway, gateway
from tests.support.upstream import ScriptedUpstream


@pytest.fixture
async def up() -> AsyncGenerator[ScriptedUpstream]:
    """A scripted upstream on a free port."""
    async with ScriptedUpstream() as upstream:
        yield upstream


@pytest.fixture
async def gw(tmp_path: Path, up: ScriptedUpstream) -> AsyncGenerator[InProcessGateway]:
    """A gateway with default settings in front of ``up``."""
    async with gateway(tmp_path, upstream=up.url) as running:
        yield running
