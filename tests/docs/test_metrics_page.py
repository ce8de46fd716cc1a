"""The metrics page lists what a running server exposes."""

from __future__ import annotations

import json
import re
import urllib.request
from pathlib import Path

from tests.docs.reference_sections import declared_metrics
from tests.docs.scripted_provider import ScriptedProvider

from sparkle.demo.server import ServeProcess

_HELP = re.compile(r"^# HELP (\S+) (.*)$", re.MULTILINE)


def test_a_running_server_exposes_the_metrics_that_the_page_lists(tmp_path: Path) -> None:
    declared = {metric.name: metric.help for metric in declared_metrics()}
    with ScriptedProvider() as provider:
        environ = {"SPARKLE_PROVIDER__UPSTREAM": provider.url, "SPARKLE_SERVER__DRAIN_SECONDS": "1"}
        with ServeProcess(tmp_path / "data", environ=environ) as server:
            body = json.dumps({"model": "gpt-4o-mini", "messages": [{"role": "user", "content": "Hi"}]})
            _fetch(f"{server.url}/v1/chat/completions", body.encode())
            shown = dict(_HELP.findall(_fetch(f"{server.url}/metrics")))
    assert {
        name: help for name, help in shown.items() if not name.endswith("_created")
    }.items() <= declared.items()
    assert "sparkle_requests_total" in shown


def _fetch(url: str, body: bytes | None = None) -> str:
    request = urllib.request.Request(url, body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=20) as response:
        return response.read().decode()
