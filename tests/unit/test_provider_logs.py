"""An upstream that goes down or comes back is logged once, by name."""

from __future__ import annotations

import logging

import pytest
from tests.support.providers import started
from tests.support.upstream import ScriptedUpstream

from sparkle.errors import ProviderError


async def test_an_upstream_is_logged_once_when_it_goes_down_and_once_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.INFO, logger="sparkle.providers"):
        async with (
            ScriptedUpstream() as up,
            started(up.url, breaker_failures=2, breaker_reset_seconds=10.0, max_retries=0) as h,
        ):
            up.fail(500, times=5)
            for _ in range(5):
                with pytest.raises(ProviderError):
                    await h.ask()
                h.clock.advance(10.0)
            await h.ask()
            await h.ask()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert [level for level, _ in said] == ["WARNING", "INFO"]
    assert said[0][1].startswith("upstream up0 is down")
    assert said[1][1] == "upstream up0 is back"
