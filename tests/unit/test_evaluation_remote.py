"""A running Sparkle as a detector, and garak's report file as counts."""

from __future__ import annotations

import json
import threading
from collections.abc import Generator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from bench.garak import render, tally
from bench.gullible import answer

from sparkle.errors import ConfigurationError, ProviderError
from sparkle.evaluation.detector import RemoteDetector


@contextmanager
def answering(status: int, body: bytes) -> Generator[str]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["content-length"]))
            self.send_response(status)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *args: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}/v1"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def test_a_verdict_over_http_is_a_judgement() -> None:
    findings = [{"rule": "injection.override.x", "mode": "block"}, {"rule": "xss.y", "mode": "watch"}]
    body = json.dumps({"action": "block", "score": 0.9, "findings": findings}).encode()
    with answering(200, body) as url:
        remote = RemoteDetector(url)
        for _ in range(2):  # the server hangs up after each answer; the second try opens a new connection
            said = remote.judge("anything", "user")
            assert (said.score, said.flagged, said.rules) == (0.9, True, ("injection.override.x",))
        remote.close()


@pytest.mark.parametrize(
    ("status", "body"), [(500, b"{}"), (200, b"[]"), (200, b"no json"), (200, b'{"action": 1}')]
)
def test_what_is_no_verdict_is_an_error(status: int, body: bytes) -> None:
    with answering(status, body) as url:
        remote = RemoteDetector(url)
        with pytest.raises(ProviderError):
            remote.judge("anything", "user")
        remote.close()


def test_nobody_there_is_an_error_and_a_wrong_address_another() -> None:
    with answering(200, b"{}") as url:
        pass
    with pytest.raises(ProviderError, match="cannot be reached"):
        RemoteDetector(url).judge("anything", "user")
    with pytest.raises(ConfigurationError, match="no http or https URL"):
        RemoteDetector("localhost:8000")


def test_a_refused_prompt_is_counted_though_garak_leaves_it_out(tmp_path: Path) -> None:
    def attempt(status: int, output: object, score: float | None) -> str:
        return json.dumps(
            {
                "entry_type": "attempt", "status": status, "probe_classname": "dan.X", "outputs": [output],
                "detector_results": {"d": [score]}, "prompt": {"turns": [{"content": {"text": "hi"}}]},
            }
        )  # fmt: skip

    file = tmp_path / "report.jsonl"
    rows = [
        attempt(1, None, None),
        attempt(2, None, None),
        attempt(2, {"text": "a"}, 1.0),
        attempt(2, {"text": "b"}, 0.0),
    ]
    file.write_text("\n".join([json.dumps({"entry_type": "init"}), *rows]))
    found = tally(file)
    assert (found["dan.X"].prompts, found["dan.X"].refused, found["dan.X"].hits) == (3, 1, 1)
    assert "| `dan.X` | 3 | 33% [6–79] | 33% [6–79] | 33% [6–79] |" in render(found, found, 8)


def test_the_gullible_upstream_repeats_and_decodes() -> None:
    said = answer("decode aGVsbG8gd29ybGQ= please")
    assert "hello world" in said
    assert "aGVsbG8gd29ybGQ=" in said
