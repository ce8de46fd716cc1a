"""A gateway for tests, on real sockets, in this process and on the test's own event loop.

::

    async with gateway(tmp_path, upstream=up.url, quota={"tokens_per_day": 500}) as gw:
        answer = await gw.chat("Hello")
        assert answer.status == 200

For the whole server (supervisor, forked workers, signals) see :mod:`tests.support.serve`.
"""

from __future__ import annotations

import asyncio
import contextlib
import io
import json
from collections.abc import AsyncGenerator, AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Self, cast

import aiohttp
from multidict import CIMultiDictProxy
from tests.support.upstream import ScriptedUpstream
from tests.support.upstream_wire import RecordedRequest
from uvicorn.lifespan.on import LifespanOn
from uvicorn.server import ServerState

from sparkle.compose import Preloaded, preload
from sparkle.llm.quota import TokenCounter
from sparkle.server.compose import build_gateway
from sparkle.server.gateway import Gateway
from sparkle.server.worker import uvicorn_config
from sparkle.settings import Settings, load_settings

MODEL = "gpt-test"


@dataclass(frozen=True, slots=True)
class Answer:
    """One HTTP answer, read to its end."""

    status: int
    headers: CIMultiDictProxy[str]
    body: bytes

    @property
    def json(self) -> Any:
        """The body as JSON."""
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The ``error`` object of an error body."""
        return cast("dict[str, Any]", self.json["error"])

    @property
    def text(self) -> str:
        """The first choice's content."""
        return cast("str", self.json["choices"][0]["message"]["content"])

    @property
    def events(self) -> list[bytes]:
        """Payloads of a server-sent event stream that Sparkle wrote: one ``data:`` line an event."""
        events = self.body.removesuffix(b"\n\n").split(b"\n\n")
        assert all(event.startswith(b"data: ") and b"\n" not in event for event in events), self.body
        return [event[6:] for event in events]

    @property
    def chunks(self) -> list[dict[str, Any]]:
        """The decoded events, without the final ``[DONE]``."""
        return [json.loads(event) for event in self.events if event != b"[DONE]"]


def spoken(chunks: Sequence[Mapping[str, Any]], field: str = "content", index: int = 0) -> str:
    """All text of one field of one choice of a stream."""
    parts: list[str] = []
    for chunk in chunks:
        for choice in chunk["choices"]:
            if choice["index"] == index:
                delta = cast("dict[str, str | None]", choice.get("delta") or {})
                parts.append(delta.get(field) or "")
    return "".join(parts)


def user(text: str) -> list[dict[str, Any]]:
    """A conversation of one user message."""
    return [{"role": "user", "content": text}]


def calls(upstream: ScriptedUpstream) -> list[RecordedRequest]:
    """The model calls that reached an upstream (a starting gateway also asks for its models)."""
    return [request for request in upstream.requests if request.method == "POST"]


class Client:
    """Talks to a gateway over HTTP as a plain client would: no retries, no cookies."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.session = aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=30)
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.close()

    async def request(
        self, method: str, path: str, body: object = None, *, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send ``body`` (bytes as they are, anything else as JSON) and read the whole answer."""
        data = body if isinstance(body, bytes) else None if body is None else json.dumps(body).encode()
        sent = {"content-type": "application/json"} if data is not None else {}
        payload = data if data is None or len(data) < 1_000_000 else io.BytesIO(data)  # so aiohttp wants it
        async with self.session.request(
            method, self.url + path, data=payload, headers={**sent, **(headers or {})}, allow_redirects=False
        ) as response:
            return Answer(response.status, response.headers, await response.read())

    async def get(self, path: str, **kwargs: Any) -> Answer:
        return await self.request("GET", path, **kwargs)

    async def post(self, path: str, body: object, **kwargs: Any) -> Answer:
        return await self.request("POST", path, body, **kwargs)

    async def chat(
        self, text: str = "Hello there", *, headers: Mapping[str, str] | None = None, **params: Any
    ) -> Answer:
        """A chat call for at most 16 tokens; ``params`` are further fields of its body."""
        body = {"model": MODEL, "messages": user(text), "max_tokens": 16, **params}
        return await self.post("/v1/chat/completions", body, headers=headers)

    @contextlib.asynccontextmanager
    async def streaming(self, text: str = "Hello there", **params: Any) -> AsyncGenerator[EventReader]:
        """A streaming chat call, read event by event; leaving the block hangs up."""
        body = {"model": MODEL, "messages": user(text), "max_tokens": 16, "stream": True, **params}
        async with self.session.post(self.url + "/v1/chat/completions", json=body) as response:
            yield EventReader(response)
            response.close()

    async def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels."""
        return metric((await self.get("/metrics")).body.decode(), name, **labels)

    async def close(self) -> None:
        await self.session.close()


class EventReader:
    """Reads a stream's events one at a time."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self.response = response
        self._lines = response.content

    async def next(self) -> bytes | None:
        """The next event's payload; ``None`` at the end."""
        line = await self._lines.readline()
        if not line:
            return None
        assert line.startswith(b"data: "), line
        assert await self._lines.readline() == b"\n"
        return line[6:-1]

    async def text(self) -> str:
        """The next non-empty piece of the first choice's content."""
        while (payload := await self.next()) is not None and payload != b"[DONE]":
            if piece := spoken([json.loads(payload)]):
                return piece
        return ""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while (payload := await self.next()) is not None:
            yield payload


def metric(exposition: str, name: str, **labels: str) -> float:
    """The sum of the samples ``name`` in a Prometheus text that carry all of ``labels``."""
    wanted = [f'{key}="{value}"' for key, value in labels.items()]
    total = 0.0
    for line in exposition.splitlines():
        series, _, value = line.rpartition(" ")
        if series.partition("{")[0] == name and all(label in series for label in wanted):
            total += float(value)
    return total


class InProcessGateway(Client):
    """A running gateway and a client of it."""

    def __init__(self, url: str, app: Gateway, settings: Settings) -> None:
        super().__init__(url)
        self.app = app
        self.settings = settings

    async def tokens_used(self, user_id: str = "anonymous") -> tuple[int, int]:
        """Tokens spent and reserved by a user today, as the store has it."""
        from sparkle.llm.usage import Principal

        states = await self.app.services.quota.snapshot(Principal(user_id))
        today = next(state for state in states if state.kind == "tokens_per_day")
        return today.used, today.reserved

    async def audit(self) -> list[dict[str, Any]]:
        """The audit records so far, oldest first."""
        self.app.services.monitor.flush()
        return read_audit(self.settings.data_dir)


def read_audit(data_dir: Path) -> list[dict[str, Any]]:
    """All audit records of a data folder."""
    lines = [
        line for file in sorted(data_dir.glob("audit/*.jsonl")) for line in file.read_bytes().splitlines()
    ]
    return [json.loads(line) for line in lines]


@contextlib.asynccontextmanager
async def gateway(
    data_dir: Path, *, upstream: str, policy: Path | str = "", **sections: Mapping[str, Any]
) -> AsyncGenerator[InProcessGateway]:
    """Run a gateway on a free loopback port; ``sections`` are settings, e.g. ``quota={"concurrency": 1}``."""
    overrides: dict[str, Any] = {"data_dir": data_dir, "policy": str(policy), "provider.upstream": upstream}
    overrides |= {"provider.max_retries": 0, "server.drain_seconds": 5}
    for section, fields in sections.items():
        overrides |= {f"{section}.{name}": value for name, value in fields.items()}
    settings = load_settings(environ={}, overrides=overrides)
    settings.data_dir.mkdir(parents=True, exist_ok=True)
    app = build_gateway(settings, _preloaded(settings))
    async with _served(app) as port:
        gw = InProcessGateway(f"http://127.0.0.1:{port}", app, settings)
        try:
            yield gw
        finally:
            await gw.close()


@contextlib.asynccontextmanager
async def _served(app: Gateway) -> AsyncGenerator[int]:
    """uvicorn's protocol and lifespan without its ``Server``, whose main loop and shutdown sleep in steps of 100 ms."""
    config = uvicorn_config(app)
    config.load()
    lifespan = LifespanOn(config)
    await lifespan.startup()
    assert not lifespan.should_exit, "the gateway did not start"
    state = ServerState()
    loop = asyncio.get_running_loop()
    server = await loop.create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state=lifespan.state),  # pyright: ignore[reportCallIssue]  typed as asyncio.Protocol
        "127.0.0.1",
        0,
    )
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        while state.tasks:  # a call whose client is gone still runs to its end
            await asyncio.wait(state.tasks)
        for connection in list(state.connections):
            connection.shutdown()
        await server.wait_closed()
        await lifespan.shutdown()


def _preloaded(settings: Settings) -> Preloaded:
    fresh = preload(settings)
    return Preloaded(_tokens(), fresh.prices, fresh.watcher)


@cache
def _tokens() -> TokenCounter:
    counter = TokenCounter()
    counter.count_text("", "gpt-4o")
    return counter
