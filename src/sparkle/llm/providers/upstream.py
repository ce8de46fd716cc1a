"""One OpenAI-compatible API: its address, its key and the models it serves."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any, cast

import msgspec

from sparkle.errors import ConfigurationError
from sparkle.llm.providers.address import Address, parse_address
from sparkle.llm.providers.transport import Exchange, Timeouts, Transport, TransportError

CHAT = "/chat/completions"
EMBEDDINGS = "/embeddings"
MODELS = "/models"

_KNOCK_SECONDS = 0.05
_MODELS_TIMEOUT = 5.0
_MODELS_BYTES = 8 * 1024 * 1024


class Upstream:
    """An upstream and its pool of connections. The key appears in no ``repr``, error or log.

    Args:
        name: Used in metrics, aliases and errors.
        base_url: e.g. ``https://api.openai.com/v1``.
        api_key: Sent as a bearer token; empty sends none.
        models: Glob patterns of the models it serves; empty: whatever no other upstream names.
        max_connections: Largest pool.
        proxy: URL of an HTTP proxy that leads there.
        embeddings_url: Base URL of the embeddings API where that is another server (the local model's case).
        listed: Models it serves without listing them itself, or that are to be shown before it is asked.
        patience: Seconds a call waits for an upstream that is down but started again by somebody, and so back within
            a second or two; needs ``health_url``.
        health_url: Base URL whose ``/health`` tells cheaply whether the upstream is up; empty: only its circuit tells.

    Raises:
        ConfigurationError: A URL is wrong, or the key cannot stand in a header.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        *,
        api_key: str = "",
        models: Sequence[str] = (),
        max_connections: int = 512,
        proxy: str | None = None,
        embeddings_url: str = "",
        listed: Sequence[str] = (),
        patience: float = 0.0,
        health_url: str = "",
    ) -> None:
        self.name = name
        self.models = tuple(models)
        self.address = parse_address(base_url, name)
        self._embeddings = parse_address(embeddings_url, name) if embeddings_url else None
        self._health = parse_address(health_url, name) if health_url else None
        #: Models that are shown whether or not it lists them.
        self.listed = tuple(listed)
        self._patience = patience
        self._key = api_key.strip()
        if any(not 0x20 < ord(char) < 0x7F for char in self._key):
            raise ConfigurationError(
                f"upstream {name!r}: api_key holds a space, a line end or another odd character"
            )
        self._proxy = proxy
        self._limit = max_connections
        self._transports: dict[str, Transport] = {}
        self._all: list[Transport] = []

    def __repr__(self) -> str:
        return f"Upstream({self.name!r}, {self.address.url('')!r}, key={'set' if self._key else 'none'})"

    @property
    def key(self) -> str:
        """The key, for masking what the upstream says; never to be shown."""
        return self._key

    @property
    def patient(self) -> bool:
        """Whether :meth:`came_back` may help."""
        return self._patience > 0 and self._health is not None

    def serves(self, model: str) -> bool:
        """Whether one of its globs matches ``model``."""
        return any(fnmatchcase(model, glob) for glob in self.models)

    async def start(self, timeouts: Timeouts) -> None:
        """Build the connection pools inside the running loop; opens no connection."""
        main = self._transport(self.address, timeouts)
        self._all = [main]
        self._transports = dict.fromkeys((CHAT, EMBEDDINGS, MODELS), main)
        for path, address in ((EMBEDDINGS, self._embeddings), ("/health", self._health)):
            if address is not None:
                self._transports[path] = self._transport(address, timeouts)
                self._all.append(self._transports[path])
        for transport in self._all:
            await transport.start()

    async def close(self) -> None:
        """Close every connection."""
        self._transports = {}
        while self._all:
            await self._all.pop().close()

    async def post(self, path: str, extra: bytes, body: bytes, timeout: float) -> Exchange:
        """Send one request.

        Args:
            path: :data:`CHAT` or :data:`EMBEDDINGS`.
            extra: Further header lines, each ended by CRLF.
            body: JSON text.
            timeout: Seconds for the whole exchange.

        Raises:
            TransportError: No connection.
        """
        transport = self._transports.get(path)
        if transport is None:
            raise TransportError("connect", "the client is not started")
        return await transport.send("POST", path, extra, body, timeout)

    async def came_back(self, timeout: float) -> bool:
        """Wait for an upstream that is being started again.

        Args:
            timeout: Seconds; its own patience holds as well.

        Returns:
            True when it was down and is up now; False when it was up all the time, stays down, or nobody starts it.
        """
        loop = asyncio.get_running_loop()
        until = loop.time() + min(self._patience, timeout)
        waited = False
        while not await self.healthy():
            if loop.time() >= until:
                return False
            waited = True
            await asyncio.sleep(_KNOCK_SECONDS)
        return waited

    async def list_models(self) -> list[dict[str, Any]]:
        """Its model objects, only those that its globs let through.

        Raises:
            TransportError: It did not answer within 5 seconds, or not with a list of models.
        """
        listed: list[dict[str, Any]] = []
        data: Any = await self._get_json(MODELS, self._transports.get(MODELS), _MODELS_TIMEOUT)
        entries: Any = cast("dict[str, Any]", data).get("data") if isinstance(data, dict) else None
        if not isinstance(entries, list):
            raise TransportError("protocol", "no list of models")
        for entry in cast("list[Any]", entries):
            if isinstance(entry, dict) and isinstance(cast("dict[str, Any]", entry).get("id"), str):
                model = cast("dict[str, Any]", entry)
                if not self.models or self.serves(model["id"]):
                    kept = {
                        field: model[field]
                        for field in ("id", "object", "created", "owned_by")
                        if field in model
                    }
                    listed.append({"object": "model", "created": 0, "owned_by": self.name, **kept})
        listed += [
            {"id": name, "object": "model", "created": 0, "owned_by": self.name} for name in self.listed
        ]
        return listed

    async def healthy(self, timeout: float = 2.0) -> bool:
        """Whether its ``/health`` answers 200; True where it has none."""
        if self._health is None:
            return True
        try:
            await self._get_json("/health", self._transports.get("/health"), timeout)
        except TransportError:
            return False
        return True

    async def _get_json(self, path: str, transport: Transport | None, timeout: float) -> Any:
        if transport is None:
            raise TransportError("connect", "the client is not started")
        exchange = await transport.send("GET", path, b"", b"", timeout)
        body = await exchange.read(_MODELS_BYTES)
        if exchange.status != 200:
            raise TransportError("protocol", f"answered {exchange.status}")
        try:
            return msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise TransportError("protocol", "no JSON") from None

    def _transport(self, address: Address, timeouts: Timeouts) -> Transport:
        authorization = f"Bearer {self._key}" if self._key else ""
        if self._proxy:
            from sparkle.llm.providers.proxied import ProxiedTransport

            return ProxiedTransport(
                address,
                self._proxy,
                authorization=authorization,
                timeouts=timeouts,
                limit=self._limit,
                user_agent=_user_agent(),
            )
        from sparkle.llm.providers.http1_pool import Http1Transport

        return Http1Transport(
            address,
            authorization=authorization,
            timeouts=timeouts,
            limit=self._limit,
            user_agent=_user_agent(),
        )


def _user_agent() -> str:
    from importlib.metadata import PackageNotFoundError, version  # 10 ms that a bare import need not pay

    try:
        return f"sparkle/{version('sparkle-llm')}"
    except PackageNotFoundError:  # run from a source tree that is not installed
        return "sparkle"
