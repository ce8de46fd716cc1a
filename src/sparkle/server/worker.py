"""One gateway process: an event loop, uvicorn, and a drain that answers what it has begun."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
from collections.abc import Callable
from types import FrameType

import uvicorn

from sparkle.server.gateway import Gateway
from sparkle.server.protocol import GatewayProtocol

log = logging.getLogger("sparkle.server")

_MODEL_SECONDS = 60.0
"""How long the announcement waits for the local model."""
_SETTLE_SECONDS = 3.0
"""How long the end waits for calls that were cut off."""


class _Server(uvicorn.Server):
    """uvicorn, with /readyz going false before the port closes."""

    def __init__(self, config: uvicorn.Config, gateway: Gateway, ready: Callable[[], None]) -> None:
        super().__init__(config)
        self._gateway = gateway
        self._ready = ready

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            await self._model_answers()
            self._ready()

    async def _model_answers(self) -> None:
        """Wait for the local model, which loads while this process starts; remote upstreams are ready at once."""
        deadline = self._gateway.clock.monotonic() + _MODEL_SECONDS
        while not self.should_exit and not await self._gateway.services.provider.loaded():
            if self._gateway.clock.monotonic() >= deadline:
                log.warning("serving without the local model: it does not answer yet")
                return
            await self._gateway.clock.sleep(0.02)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        # uvicorn cancels calls that outlast the drain and ends the application at once; they still have to be settled
        # and recorded.
        end = self.lifespan.shutdown

        async def after_the_calls() -> None:
            if calls := tuple(self.server_state.tasks):
                await asyncio.wait(calls, timeout=_SETTLE_SECONDS)
            await end()

        self.lifespan.shutdown = after_the_calls
        await super().shutdown(sockets)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        delay = self._gateway.settings.server.drain_delay_seconds
        if self._gateway.readiness.draining or sig == signal.SIGINT or delay <= 0:
            self._gateway.readiness.draining = True
            super().handle_exit(sig, frame)
            return
        self._gateway.readiness.draining = True
        asyncio.get_event_loop().call_later(delay, super().handle_exit, sig, frame)


def uvicorn_config(gateway: Gateway) -> uvicorn.Config:
    """How uvicorn runs a gateway."""
    return uvicorn.Config(
        gateway,
        loop="uvloop",
        http=GatewayProtocol,
        ws="none",
        lifespan="on",
        access_log=False,
        proxy_headers=False,  # nothing here depends on who the client says it is
        log_config=None,
        server_header=False,
        date_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=max(1, int(gateway.settings.server.drain_seconds)),
        backlog=2048,
    )


def serve(gateway: Gateway, sock: socket.socket, ready: Callable[[], None]) -> int:
    """Serve until SIGTERM; returns the exit code."""
    running = _Server(uvicorn_config(gateway), gateway, ready)
    running.run(sockets=[sock])
    return 0 if running.started else 1
