"""A scripted upstream for one scene of the demo: it says a secret, cut in pieces, as no honest model does on demand."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import AsyncIterator
from types import TracebackType

import msgspec
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

MODEL = "scripted-leaky-model"
_GAP_SECONDS = 0.06


def secret() -> str:
    """The secret of the scene, put together here so that no secret scanner stumbles over this file."""
    return "-".join(["sk", "proj", "Tq7Wm2Zx9Lr4Vb8Np3Kd6Yf1Hs5Jc0GaUeXoBi"])


def pieces() -> list[str]:
    """The answer's chunks: the key and the phone number are both cut in the middle."""
    key, phone = secret(), "138" + "0013" + "8000"
    return [
        *[
            "Sure",
            ", ",
            "the ",
            "key ",
            "in ",
            "the ",
            "config ",
            "is ",
            key[:7],
            key[7:19],
            key[19:31],
            key[31:],
        ],
        *[" and ", "the ", "owner ", "is ", "reached ", "at ", phone[:4], phone[4:8], phone[8:], ". "],
        *["Keep ", "it ", "safe", "!"],
    ]


async def _chat(request: Request) -> Response:
    async def events() -> AsyncIterator[bytes]:
        for i, piece in enumerate(pieces()):
            delta = {"role": "assistant", "content": piece} if i == 0 else {"content": piece}
            yield _event({"index": 0, "delta": delta, "finish_reason": None})
            await asyncio.sleep(_GAP_SECONDS)
        yield _event({"index": 0, "delta": {}, "finish_reason": "stop"})
        yield b"data: [DONE]\n\n"

    return StreamingResponse(events(), media_type="text/event-stream")


async def _models(request: Request) -> Response:
    return JSONResponse({"object": "list", "data": [{"id": MODEL, "object": "model", "owned_by": "demo"}]})


def _event(choice: dict[str, object]) -> bytes:
    chunk = {
        "id": "chatcmpl-scripted",
        "object": "chat.completion.chunk",
        "created": 0,
        "model": MODEL,
        "choices": [choice],
    }
    return b"data: " + msgspec.json.encode(chunk) + b"\n\n"


class ScriptedModel:
    """Runs the upstream in a thread on a free loopback port, as a context manager."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/v1"
        app = Starlette(
            routes=[
                Route("/v1/chat/completions", _chat, methods=["POST"]),
                Route("/v1/models", _models),
            ]
        )
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True
        )

    def __enter__(self) -> ScriptedModel:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.should_exit = True
        self._thread.join(timeout=5)
        self._socket.close()
