"""The HTTP gateway: an ASGI application that speaks the OpenAI API."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sparkle.clock import Clock
from sparkle.errors import InvalidRequestError, NotFoundError, SparkleError
from sparkle.server import chat, embeddings, guard_scan, pages
from sparkle.server.context import wants_request_id
from sparkle.server.http import (
    ClientGoneError,
    Headers,
    Receive,
    Scope,
    Send,
    error_headers,
    error_status,
    send_json,
)

if TYPE_CHECKING:
    from sparkle.compose import Services
    from sparkle.server.idempotency import IdempotencyStore
    from sparkle.server.keys import KeyStore
    from sparkle.settings import Settings

log = logging.getLogger("sparkle.server")

Handler = Callable[["Gateway", Scope, Receive, Send], Awaitable[None]]


@dataclass(slots=True)
class Readiness:
    """Whether this process takes traffic; goes false first on drain."""

    draining: bool = False


class Gateway:
    """One process's gateway.

    Args:
        settings: The server's settings.
        services: The guarded call and its parts; started and closed by the lifespan of whoever runs this app.
        keys: API keys.
        idempotency: Stored answers, or ``None`` when switched off.
        clock: Time.
    """

    def __init__(
        self,
        settings: Settings,
        services: Services,
        keys: KeyStore,
        idempotency: IdempotencyStore | None,
        clock: Clock,
    ) -> None:
        self.settings = settings
        self.services = services
        self.keys = keys
        self.idempotency = idempotency
        self.clock = clock
        self.readiness = Readiness()
        self.require_key = demands_keys(settings)
        self._routes: dict[str, dict[str, Handler]] = {
            "/v1/chat/completions": {"POST": chat.handle},
            "/v1/embeddings": {"POST": embeddings.handle},
            "/v1/guard/scan": {"POST": guard_scan.handle},
            "/v1/models": {"GET": pages.models},
            "/healthz": {"GET": pages.healthz},
            "/readyz": {"GET": pages.readyz},
            "/metrics": {"GET": pages.metrics},
            "/openapi.json": {"GET": pages.openapi},
            "/docs": {"GET": pages.docs},
            "/": {"GET": pages.index},
        }

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """ASGI entry."""
        if scope["type"] == "lifespan":
            await self._lifespan(receive, send)
            return
        if scope["type"] != "http":
            return
        started = _Started(send, scope)
        try:
            await self._dispatch(scope, receive, started)
        except ClientGoneError:
            return
        except SparkleError as exc:
            await self._answer_error(scope, started, exc)
        except (
            Exception
        ):  # the last resort: the client gets a clean 500, the log gets the trace (no request content)
            log.exception("unhandled error on %s", scope["path"])
            await self._answer_error(scope, started, SparkleError())

    async def _dispatch(self, scope: Scope, receive: Receive, send: Send) -> None:
        path: str = scope["path"]
        methods = self._routes.get(path)
        if methods is None and path.startswith("/v1/models/"):
            methods = {"GET": pages.model}
        if methods is None:
            raise NotFoundError("there is nothing at this path")
        method: str = scope["method"]
        handler = methods.get("GET" if method == "HEAD" else method)
        if handler is None:
            allowed = ", ".join(methods).encode()
            body = InvalidRequestError(f"this path takes {allowed.decode()}").body()
            await send_json(send, 405, body, [(b"allow", allowed)])
            return
        await handler(self, scope, receive, send)

    async def _answer_error(self, scope: Scope, send: _Started, exc: SparkleError) -> None:
        if send.started:
            return  # too late for a status line; streams report their own errors
        request_id = getattr(exc, "request_id", None) or wants_request_id(scope)
        headers: Headers = [(b"x-request-id", request_id.encode()), *error_headers(exc)]
        await send_json(send, error_status(exc), exc.body(), headers)

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.services.start()
        except SparkleError as exc:
            await send({"type": "lifespan.startup.failed", "message": exc.message})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.services.close()
        self.keys.close()
        if self.idempotency is not None:
            self.idempotency.close()
        await send({"type": "lifespan.shutdown.complete"})


def demands_keys(settings: Settings) -> bool:
    """API keys are demanded beyond loopback, or where the settings say so."""
    if settings.server.require_keys is not None:
        return settings.server.require_keys
    return settings.server.host not in ("127.0.0.1", "::1", "localhost")


class _Started:
    """Remembers whether the response has begun; gives an answer without a request id one."""

    __slots__ = ("_scope", "_send", "started")

    def __init__(self, send: Send, scope: Scope) -> None:
        self._send = send
        self._scope = scope
        self.started = False

    async def __call__(self, message: Any) -> None:
        if not self.started:
            self.started = True
            headers: Headers = message["headers"]
            if not any(name == b"x-request-id" for name, _ in headers):
                headers.append((b"x-request-id", wants_request_id(self._scope).encode()))
        await self._send(message)
