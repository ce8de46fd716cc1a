"""An upstream that falls for everything: it repeats what it is told, decodes what it can, and refuses nothing.

A real model resists some attacks by itself. Behind this one, every attack that reaches it succeeds as far as repeating
and decoding go, so what a red team counts is the guard in front of it and nothing else.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, cast

MODEL = "gullible"
_TOKEN = re.compile(r"\S{8,}")
_DECODERS: tuple[Callable[[bytes], bytes], ...] = (
    base64.b64decode, base64.b32decode, base64.b16decode, base64.a85decode, base64.b85decode, binascii.unhexlify,
)  # fmt: skip
_MOST_TOKENS = 200


def answer(text: str) -> str:
    """What it says to ``text``."""
    said = [text, codecs.encode(text, "rot13"), *_decoded(text)]
    return "\n".join(said)


def _decoded(text: str) -> Iterator[str]:
    for token in _TOKEN.findall(text)[:_MOST_TOKENS]:
        for decode in _DECODERS:
            try:
                plain = decode(token.encode()).decode()
            except ValueError:  # also UnicodeError and binascii.Error: it was something else
                continue
            if plain.isprintable():
                yield plain


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        body: dict[str, Any] = json.loads(self.rfile.read(int(self.headers["content-length"])))
        said = [_text(cast("dict[str, Any]", message)) for message in body.get("messages", [])]
        choice = {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": answer("\n".join(said))},
        }
        self._send({
            "id": "chatcmpl-gullible", "object": "chat.completion", "created": 0, "model": MODEL,
            "choices": [choice],
            "usage": {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2},
        })  # fmt: skip

    def do_GET(self) -> None:
        entry = {"id": MODEL, "object": "model", "owned_by": "bench"}
        self._send({"object": "list", "data": [entry]})

    def _send(self, value: object) -> None:
        raw = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(raw)))
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""


def _text(message: dict[str, Any]) -> str:
    content: object = message.get("content")
    if isinstance(content, str):
        return content
    parts = cast("list[dict[str, Any]]", content or [])
    return "\n".join(str(part.get("text", "")) for part in parts)


class Gullible:
    """Runs it on a free loopback port in a thread, as a context manager; ``url`` ends in ``/v1``."""

    def __init__(self) -> None:
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), _Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}/v1"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> Gullible:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
