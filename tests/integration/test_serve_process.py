"""``sparkle serve`` as a whole: its start, its workers, its metrics, its end."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from tests.support.gateway import Client, calls, gateway, read_audit, spoken
from tests.support.serve import ServerProcess, children, clean_environ, is_alive, serving, wait_for_end
from tests.support.upstream import ScriptedUpstream


@asynccontextmanager
async def client_of(server: ServerProcess) -> AsyncGenerator[Client]:
    client = Client(server.url)
    try:
        yield client
    finally:
        await client.close()


async def until_refused(port: int) -> None:
    """Return once nobody accepts connections on the port."""
    while True:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            return
        writer.close()


async def test_two_workers_answer_and_their_metrics_add_up(tmp_path: Path, up: ScriptedUpstream) -> None:
    up.answer("ok", usage=(10, 5))
    with serving(tmp_path, upstream=up.url, workers=2) as server:
        assert len(server.workers()) == 2
        for _ in range(6):  # a connection each, so that both workers get some
            async with client_of(server) as client:
                assert [(await client.chat()).status for _ in range(4)] == [200] * 4
        async with client_of(server) as client:
            # Counts reach the other worker's scrape within 100 ms.
            while await client.metric("sparkle_requests_total", outcome="ok") < 24:
                continue
            assert await client.metric("sparkle_requests_total", outcome="ok") == 24
            assert await client.metric("sparkle_tokens_total") == 24 * 15
            assert await client.metric("sparkle_inflight_requests") == 0
    assert len({record["request_id"] for record in read_audit(server.data_dir)}) == 24


async def test_a_killed_worker_is_replaced_and_counters_stay(tmp_path: Path, up: ScriptedUpstream) -> None:
    with serving(tmp_path, upstream=up.url, workers=2) as server:
        async with client_of(server) as client:
            assert (await client.chat()).status == 200
            while await client.metric("sparkle_requests_total") < 1:
                continue
        victims = server.workers()
        for victim in victims:
            os.kill(victim, signal.SIGKILL)
        wait_for_end(victims)
        # Connections wait in the port's queue, which the supervisor holds open, for the successors.
        for _ in range(4):
            async with client_of(server) as client:
                assert (await client.chat()).status == 200
        assert not set(victims) & set(server.workers())
        async with client_of(server) as client:
            assert await client.metric("sparkle_requests_total") >= 1
            assert await client.metric("sparkle_inflight_requests") == 0


@pytest.mark.parametrize("workers", [1, 2])
async def test_on_sigterm_a_running_stream_ends_well_and_new_connections_are_refused(
    tmp_path: Path, up: ScriptedUpstream, workers: int
) -> None:
    held = asyncio.Event()
    up.stream(["The first part, ", "then", held, " the last part."], usage=(5, 6))
    with serving(tmp_path, upstream=up.url, workers=workers) as server:
        async with client_of(server) as client, client.streaming() as stream:
            first = await stream.text()
            server.signal(signal.SIGTERM)
            await until_refused(server.port)
            held.set()
            rest = [payload async for payload in stream]
        assert rest[-1] == b"[DONE]"
        said = first + spoken([json.loads(payload) for payload in rest[:-1]])
        assert said == "The first part, then the last part."
        assert server.wait() == 0
    (record,) = read_audit(server.data_dir)
    assert (record["outcome"], record["usage"]) == ("ok", {"prompt": 5, "completion": 6})


async def test_readiness_goes_false_before_the_port_closes(tmp_path: Path, up: ScriptedUpstream) -> None:
    environ = {"SPARKLE_SERVER__DRAIN_DELAY_SECONDS": "1"}
    with serving(tmp_path, upstream=up.url, environ=environ) as server:
        async with client_of(server) as client:
            assert (await client.get("/readyz")).status == 200
            server.signal(signal.SIGTERM)
            while (ready := await client.get("/readyz")).status == 200:
                continue
            assert ready.json["checks"]["accepting"] == "draining"
            assert (await client.get("/healthz")).status == 200
        async with client_of(server) as client:
            assert (await client.chat()).status == 200  # still served: the load balancer has yet to notice
        await until_refused(server.port)
        assert server.wait() == 0


async def test_a_call_that_outlasts_the_drain_is_cut_off_and_charged(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    up.stream(["Some words ", "that were said ", asyncio.Event()])
    environ = {"SPARKLE_SERVER__DRAIN_SECONDS": "1"}
    with serving(tmp_path, upstream=up.url, environ=environ) as server:
        async with client_of(server) as client, client.streaming() as stream:
            assert await stream.text()
            server.signal(signal.SIGTERM)
            assert await asyncio.to_thread(server.wait) == 0
    await calls(up)[0].closed.wait()
    (record,) = read_audit(server.data_dir)
    assert record["outcome"] == "client_closed"
    assert record["usage"]["completion"] > 0


async def test_the_environment_sets_the_limits(tmp_path: Path, up: ScriptedUpstream) -> None:
    up.answer("ok", usage=(10, 10))
    with serving(tmp_path, upstream=up.url, environ={"SPARKLE_QUOTA__TOKENS_PER_DAY": "30"}) as server:
        async with client_of(server) as client:
            assert (await client.chat(max_tokens=10)).headers["x-ratelimit-limit-tokens"] == "30"
            assert (await client.chat(max_tokens=10)).error["code"] == "insufficient_quota"


async def test_usage_survives_a_restart(tmp_path: Path, up: ScriptedUpstream) -> None:
    up.answer("ok", usage=(10, 10))
    environ = {"SPARKLE_QUOTA__TOKENS_PER_DAY": "50"}
    for remaining in (30, 10):
        with serving(tmp_path, upstream=up.url, environ=environ) as server:
            async with client_of(server) as client:
                assert (await client.chat(max_tokens=10)).status == 200
                refused = await client.chat(max_tokens=40)
                assert refused.error["limit"] - refused.error["used"] == remaining
                assert server.stop() == 0


@pytest.mark.slow
async def test_without_an_upstream_the_local_model_answers_chat_streams_and_embeddings(
    tmp_path: Path,
) -> None:
    with serving(tmp_path) as server:
        assert len(server.workers()) == 2  # the gateway and the model
        async with client_of(server) as client:
            assert (await client.get("/readyz")).status == 200
            models = [model["id"] for model in (await client.get("/v1/models")).json["data"]]
            model = next(name for name in models if "smollm" in name.lower())
            answer = await client.chat("Say hello.", model=model, max_tokens=8, temperature=0)
            assert answer.status == 200
            assert answer.text
            stream = await client.chat("Say hello.", model=model, max_tokens=8, temperature=0, stream=True)
            assert spoken(stream.chunks) == answer.text
            embedding = next(name for name in models if name != model)
            vectors = await client.post(
                "/v1/embeddings", {"model": embedding, "input": ["光合作用", "mitosis"]}
            )
            assert len(vectors.json["data"]) == 2
        family = server.workers()
    assert not any(is_alive(pid) for pid in family)


def run_serve(
    folder: Path, *arguments: str, environ: dict[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-m", "sparkle.cli", "serve", "--data-dir", str(folder / "data"), *arguments]
    return subprocess.run(argv, env=clean_environ(environ or {}), capture_output=True, text=True, timeout=60)


def test_a_taken_port_is_said_in_one_line(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for workers in ("1", "2"):
            done = run_serve(
                tmp_path, "--port", str(port), "--workers", workers, "--upstream", "http://x.test/v1"
            )
            assert done.returncode == 1
            assert done.stderr.strip() == f"Error: cannot listen on 127.0.0.1:{port}: Address already in use"


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"SPARKLE_QUOTA__TOKENS_PER_DAI": "5"}, "SPARKLE_QUOTA__TOKENS_PER_DAY"),
        ({"SPARKLE_SERVER__WORKERS": "many"}, "SPARKLE_SERVER__WORKERS"),
        ({"SPARKLE_PROVIDER__UPSTREAM": "not a url"}, "upstream"),
        ({"SPARKLE_QUOTA__PRICES_FILE": "/nowhere/prices.yaml"}, "/nowhere/prices.yaml"),
        ({"SPARKLE_QUOTA__STORE_URL": "ftp://x"}, "store_url"),
    ],
)
def test_a_wrong_setting_is_said_in_one_line_without_a_traceback(
    tmp_path: Path, environ: dict[str, str], said: str
) -> None:
    environ = {"SPARKLE_PROVIDER__UPSTREAM": "http://127.0.0.1:9/v1", **environ}
    done = run_serve(tmp_path, "--port", "0", environ=environ)
    assert done.returncode == 1
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_a_broken_policy_is_said_with_its_line(tmp_path: Path) -> None:
    policy = tmp_path / "policy.yaml"
    policy.write_text("version: 1\ninput:\n  on_error: ajar\n")
    done = run_serve(tmp_path, "--port", "0", "--upstream", "http://127.0.0.1:9/v1", "--policy", str(policy))
    assert done.returncode == 1
    assert f"{policy}:3" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_stopped_server_leaves_no_process_and_no_metrics_files(tmp_path: Path) -> None:
    with serving(tmp_path, upstream="http://127.0.0.1:9/v1", workers=2) as server:
        family = children(server.pid)
        assert list(server.data_dir.glob("metrics-*/*.db"))
    assert not any(is_alive(pid) for pid in family)
    assert not list(server.data_dir.glob("metrics-*"))


def test_the_data_folder_is_its_owners_alone(tmp_path: Path) -> None:
    with serving(tmp_path, upstream="http://127.0.0.1:9/v1") as server:
        assert server.data_dir.stat().st_mode & 0o077 == 0
        shared: list[Any] = [
            path for path in server.data_dir.rglob("*") if path.is_file() and path.stat().st_mode & 0o077
        ]
        assert not [path for path in shared if path.parent == server.data_dir], "databases are private"


async def test_a_connection_that_sends_rubbish_is_refused_and_the_server_lives(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    with serving(tmp_path, upstream=up.url) as server:
        for rubbish in (
            b"\x16\x03\x01\x02\x00\x01",
            b"GET\r\n\r\n",
            b"POST / HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        ):
            reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
            writer.write(rubbish)
            head, _, body = (await reader.read()).partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 400 Bad Request\r\n")
            assert b"\r\nx-request-id: req_" in head
            assert json.loads(body)["error"]["code"] == "invalid_request"
            writer.close()
        async with aiohttp.ClientSession() as session, session.get(server.url + "/healthz") as answer:
            assert answer.status == 200


@pytest.mark.parametrize("offer", ["h2c", "websocket", "TLS/1.2"])
async def test_an_offer_to_upgrade_is_ignored_and_the_request_answered(
    tmp_path: Path, up: ScriptedUpstream, offer: str
) -> None:
    up.answer("ok")
    headers = {
        "connection": "Upgrade, HTTP2-Settings",
        "Upgrade": offer,
        "HTTP2-Settings": "AAMAAABkAAQAAP__",
    }
    async with gateway(tmp_path, upstream=up.url) as gw:
        assert (await gw.chat("Please upgrade: me", headers=headers)).text == "ok"
        assert (await gw.get("/healthz", headers=headers)).status == 200
    assert calls(up)[0].json["messages"][0]["content"] == "Please upgrade: me"
