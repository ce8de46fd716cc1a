"""A real upstream for the tests that kill servers."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest
from tests.support.upstream import ScriptedUpstream


@pytest.fixture
async def up() -> AsyncGenerator[ScriptedUpstream]:
    """A scripted upstream on a free port."""
    async with ScriptedUpstream() as upstream:
        yield upstream
