"""A real HTTP upstream that does what a test tells it to, on a free loopback port.

::

    async with ScriptedUpstream() as up:
        up.fail(503)                                   # the first request fails ...
        up.answer(text="Hello there")                  # ... all later ones are answered (the last step stays)
        ... point a client at up.url ...
        assert up.requests[0].json["model"] == "m"

Each of ``answer``, ``stream``, ``fail``, ``hang``, ``reset``, ``raw`` appends a step. A step with ``times=n``
serves n requests, one with ``times=None`` all that follow (one only, if another step stands behind it). When
the script has run out, requests are answered with ``max_tokens`` generated words. Whether an answer leaves as
JSON or as server-sent events follows the request's ``stream``. Nothing here sleeps: delays are
:class:`asyncio.Event` objects put between the pieces of a stream, or the ``gate`` of a step.
"""

from __future__ import annotations

import asyncio
import json
import re
import ssl
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, cast

from tests.support.upstream_answers import (
    Piece,
    Step,
    Usage,
    embeddings,
    event,
    spoken_words,
    stream_pieces,
    token_usage,
)
from tests.support.upstream_wire import Connection, RecordedRequest, chunk, head


class ScriptedUpstream:
    """An OpenAI-compatible server that plays a script and records what it was asked."""

    def __init__(
        self, *, models: Sequence[str] = ("gpt-test",), port: int = 0, tls: ssl.SSLContext | None = None
    ) -> None:
        self.models = tuple(models)
        self.models_status = 200
        #: Every request in the order of arrival, ``GET /v1/models`` included.
        self.requests: list[RecordedRequest] = []
        #: Connections accepted so far: a pooled client keeps this low.
        self.connections = 0
        self._port = port
        self._tls = tls
        self._script: deque[tuple[int | None, Step]] = deque()
        self._responder: Callable[[RecordedRequest], Step] | None = None
        self._open: set[Connection] = set()
        self._server: asyncio.Server | None = None
        self._arrival = asyncio.Event()
        self._ids = iter(range(1, 1 << 62))

    # ---- life ----

    async def __aenter__(self) -> ScriptedUpstream:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None
    ) -> None:
        await self.close()

    async def start(self) -> None:
        """Listen; after :meth:`close` the same port is taken again."""
        loop = asyncio.get_running_loop()
        self._server = await loop.create_server(self._connect, "127.0.0.1", self._port, ssl=self._tls)
        self._port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Stop listening and cut every connection."""
        if self._server is not None:
            self._server.close()
            self._server = None
        await asyncio.gather(*(connection.abort() for connection in tuple(self._open)))

    @property
    def port(self) -> int:
        """The port it listens on; known after :meth:`start`."""
        return self._port

    @property
    def url(self) -> str:
        """Base URL for a client, e.g. ``http://127.0.0.1:40123/v1``."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}/v1"

    # ---- script ----

    def answer(
        self,
        text: str | None = None,
        *,
        message: Mapping[str, Any] | None = None,
        usage: Usage = True,
        finish: str = "stop",
        model: str | None = None,
        headers: Mapping[str, str] | None = None,
        gate: asyncio.Event | None = None,
        times: int | None = None,
    ) -> None:
        """Answer with ``text`` (in streams word by word) or generated words; ``message`` replaces it."""
        pieces = None if text is None else tuple(re.findall(r"\s*\S+|\s+", text))
        self._add(
            times,
            Step(
                pieces=pieces,
                message=message,
                usage=usage,
                finish=finish,
                model=model,
                headers=headers or {},
                gate=gate,
            ),
        )

    def stream(
        self,
        pieces: Sequence[Piece],
        *,
        usage: Usage = True,
        finish: str | None = "stop",
        done: bool = True,
        headers: Mapping[str, str] | None = None,
        times: int | None = None,
    ) -> None:
        """Send these pieces: ``str`` one delta each, ``bytes`` as they are, an event waits until it is set.

        ``finish=None`` leaves out the finishing chunk, ``done=False`` the final ``[DONE]``. As soon as one
        piece is ``bytes``, the pieces are the whole body, each in a chunk of its own, and nothing is added.
        """
        self._add(
            times, Step(pieces=tuple(pieces), usage=usage, finish=finish, done=done, headers=headers or {})
        )

    def fail(
        self,
        status: int,
        *,
        message: str = "scripted failure",
        code: str | None = None,
        type: str = "server_error",
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
        times: int | None = 1,
    ) -> None:
        """Answer with an error status. One time unless told otherwise."""
        error = {"error": {"message": message, "type": type, "param": None, "code": code}}
        content = json.dumps(error).encode() if body is None else body
        self._add(times, Step("fail", status=status, body=content, headers=headers or {}))

    def hang(self, *, times: int | None = 1) -> None:
        """Read the request and never answer; ``request.closed`` is set when the client gives up."""
        self._add(times, Step("hang"))

    def reset(self, *, times: int | None = 1, after: bytes = b"") -> None:
        """Put ``after`` on the wire, then reset the connection."""
        self._add(times, Step("reset", body=after))

    def raw(self, response: bytes, *, times: int | None = None) -> None:
        """Put these bytes on the wire as the whole response, head included, and close the connection."""
        self._add(times, Step("raw", body=response))

    def respond(self, responder: Callable[[RecordedRequest], Step]) -> None:
        """Decide per request instead of by script."""
        self._responder = responder

    def clear(self) -> None:
        """Forget the script and the recorded requests."""
        self._script.clear()
        self._responder = None
        self.requests.clear()

    async def wait_for_requests(self, count: int) -> None:
        """Return once ``count`` requests have arrived."""
        while len(self.requests) < count:
            self._arrival.clear()
            await self._arrival.wait()

    def _add(self, times: int | None, step: Step) -> None:
        self._script.append((times, step))

    def _next_step(self, request: RecordedRequest) -> Step:
        if self._responder is not None:
            return self._responder(request)
        while self._script:
            times, step = self._script[0]
            if times is None:
                if len(self._script) == 1:
                    return step
                self._script.popleft()  # an unlimited step that something follows serves one request
                return step
            if times > 0:
                self._script[0] = (times - 1, step)
                return step
            self._script.popleft()
        return Step()

    # ---- serving ----

    def _connect(self) -> Connection:
        self.connections += 1
        return Connection(self._serve, self._open)

    async def _serve(self, connection: Connection, request: RecordedRequest) -> None:
        self.requests.append(request)
        self._arrival.set()
        if request.method == "GET":
            await self._list_models(connection)
            return
        step = self._next_step(request)
        if step.gate is not None:
            await step.gate.wait()
        match step.kind:
            case "hang":
                await request.closed.wait()
            case "reset":
                await connection.write(step.body)
                connection.reset()
            case "raw":
                await connection.write(step.body)
                connection.cut()
            case "fail":
                await connection.write(head(step.status, step.headers, len(step.body)) + step.body)
            case "answer":
                await self._answer(connection, request, step)

    async def _list_models(self, connection: Connection) -> None:
        data = [{"id": m, "object": "model", "created": 1, "owned_by": "test"} for m in self.models]
        body = json.dumps({"object": "list", "data": data}).encode()
        await connection.write(head(self.models_status, {}, len(body)) + body)

    async def _answer(self, connection: Connection, request: RecordedRequest, step: Step) -> None:
        if request.path.endswith("/embeddings"):
            body = json.dumps(embeddings(request.json)).encode()
            await connection.write(head(200, step.headers, len(body)) + body)
        elif request.json.get("stream"):
            await self._stream(connection, request.json, step)
        else:
            body = json.dumps(self._completion(request.json, step)).encode()
            await connection.write(head(200, step.headers, len(body)) + body)

    def _completion(self, body: dict[str, Any], step: Step) -> dict[str, Any]:
        pieces, finish = spoken_words(body, step)
        choices = [
            {
                "index": index,
                "message": dict(step.message or {"role": "assistant", "content": "".join(pieces)}),
                "logprobs": None,
                "finish_reason": finish,
            }
            for index in range(int(body.get("n") or 1))
        ]
        whole = self._envelope("chat.completion", body, step) | {"choices": choices}
        if step.usage:
            whole["usage"] = token_usage(body, step, len(pieces) * len(choices))
        return whole

    async def _stream(self, connection: Connection, body: dict[str, Any], step: Step) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", **step.headers}
        await connection.write(head(200, headers, None))
        pieces = step.pieces
        if pieces is not None and any(isinstance(p, bytes) for p in pieces):
            for piece in pieces:
                if isinstance(piece, asyncio.Event):
                    await piece.wait()
                else:
                    await connection.write(chunk(piece if isinstance(piece, bytes) else piece.encode()))
            await connection.write(chunk(b""))
            return
        base = self._envelope("chat.completion.chunk", body, step)
        first: dict[str, Any] = {"role": "assistant"}
        spoken = 0
        for piece in stream_pieces(body, step):
            if isinstance(piece, asyncio.Event):
                await piece.wait()
                continue
            delta = first | ({"content": piece} if isinstance(piece, str) else dict(piece))
            first = {}
            spoken += 1
            await connection.write(
                event(base | {"choices": [{"index": 0, "delta": delta, "finish_reason": None}]})
            )
        if step.finish is not None:
            finish = spoken_words(body, step)[1]
            await connection.write(
                event(base | {"choices": [{"index": 0, "delta": {}, "finish_reason": finish}]})
            )
        options = cast("dict[str, Any]", body.get("stream_options") or {})
        if step.usage and options.get("include_usage"):
            await connection.write(event(base | {"choices": [], "usage": token_usage(body, step, spoken)}))
        await connection.write((chunk(b"data: [DONE]\n\n") if step.done else b"") + chunk(b""))

    def _envelope(self, kind: str, body: dict[str, Any], step: Step) -> dict[str, Any]:
        return {
            "id": f"chatcmpl-test{next(self._ids)}",
            "object": kind,
            "created": 1_760_000_000,
            "model": step.model or body.get("model", "gpt-test"),
        }
