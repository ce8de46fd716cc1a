"""Builds the gateway of one process."""

from __future__ import annotations

from sparkle.clock import SystemClock
from sparkle.compose import Preloaded, build_services
from sparkle.llm.providers import LocalModel
from sparkle.server.gateway import Gateway
from sparkle.server.idempotency import IdempotencyStore
from sparkle.server.keys import KEYS_FILE, KeyStore
from sparkle.settings import Settings


def build_gateway(settings: Settings, preloaded: Preloaded, local: LocalModel | None = None) -> Gateway:
    """The ASGI application of one worker; connections open in its lifespan."""
    clock = SystemClock()
    services = build_services(settings, preloaded, clock=clock, local=local)
    keys = KeyStore(settings.data_dir / KEYS_FILE, clock=clock)
    seconds = settings.server.idempotency_seconds
    answers = None
    if seconds:
        answers = IdempotencyStore(settings.data_dir / "idempotency.db", keep_seconds=seconds, clock=clock)
    return Gateway(settings, services, keys, answers, clock)
