"""The least a Python gateway can do: uvicorn hands the request over, aiohttp sends it on, the answer goes back.

It checks nothing, counts nothing, keeps nothing. What Sparkle costs is measured against it.
Run: ``python -m bench.passthrough --port 8001 --upstream http://127.0.0.1:9000/v1 --workers 2``
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import socket
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import aiohttp
import uvicorn
from yarl import URL

_Message = MutableMapping[str, Any]
_PASSED_BACK = (b"content-type",)


class PassThrough:
    """An ASGI application that sends every body on to one address and its answer back, chunk by chunk."""

    def __init__(self, upstream: str) -> None:
        self._base = upstream.removesuffix("/v1")
        self._session: aiohttp.ClientSession | None = None

    async def __call__(
        self,
        scope: _Message,
        receive: Callable[[], Awaitable[_Message]],
        send: Callable[[_Message], Awaitable[None]],
    ) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        assert self._session is not None, "requests come after the lifespan's startup"
        body, more = b"", True
        while more:
            message = await receive()
            body += message.get("body", b"")
            more = message.get("more_body", False)
        headers = {
            k.decode(): v.decode() for k, v in scope["headers"] if k in (b"content-type", b"authorization")
        }
        url = URL(self._base + scope["path"], encoded=True)
        async with self._session.request(scope["method"], url, data=body, headers=headers) as answer:
            back = [(k, v) for k, v in answer.raw_headers if k.lower() in _PASSED_BACK]
            length = answer.headers.get("Content-Length")
            if length is not None:
                back.append((b"content-length", length.encode()))
            await send({"type": "http.response.start", "status": answer.status, "headers": back})
            if length is not None:
                await send({"type": "http.response.body", "body": await answer.read()})
                return
            async for chunk in answer.content.iter_any():
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})

    async def _lifespan(
        self, receive: Callable[[], Awaitable[_Message]], send: Callable[[_Message], Awaitable[None]]
    ) -> None:
        await receive()
        connector = aiohttp.TCPConnector(limit=512)
        self._session = aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self._session.close()
        await send({"type": "lifespan.shutdown.complete"})


def serve(port: int, upstream: str) -> None:
    """Serve in this process until SIGTERM."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", port))
    sock.listen(2048)
    config = uvicorn.Config(
        PassThrough(upstream),
        loop="uvloop",
        http="httptools",
        ws="none",
        lifespan="on",
        log_level="error",
        access_log=False,
        server_header=False,
        date_header=False,
    )
    uvicorn.Server(config).run(sockets=[sock])


def main() -> None:
    """Fork the workers and wait for SIGTERM."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--upstream", required=True)
    parser.add_argument("--workers", type=int, default=1)
    options = parser.parse_args()
    workers: list[int] = []
    for _ in range(options.workers):
        pid = os.fork()
        if pid == 0:
            serve(options.port, options.upstream)
            os._exit(0)
        workers.append(pid)

    def end(signum: int, frame: object) -> None:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(worker, signal.SIGTERM)

    signal.signal(signal.SIGTERM, end)
    signal.signal(signal.SIGINT, end)
    for worker in workers:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(worker, 0)


if __name__ == "__main__":
    main()
