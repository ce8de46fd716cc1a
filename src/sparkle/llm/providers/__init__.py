"""Room 3: the call to the model. An OpenAI-compatible client with retries, circuits, fallback, and the local model."""

from __future__ import annotations

from sparkle.llm.providers.breaker import CircuitState
from sparkle.llm.providers.build import build_router, needs_local
from sparkle.llm.providers.events import Outcome, ProviderResponse, UpstreamEvent
from sparkle.llm.providers.local import LocalCommand, LocalEndpoint, LocalModel
from sparkle.llm.providers.router import ProviderRouter
from sparkle.llm.providers.stream import ProviderStream
from sparkle.llm.providers.upstream import Upstream

__all__ = [
    "CircuitState",
    "LocalCommand",
    "LocalEndpoint",
    "LocalModel",
    "Outcome",
    "ProviderResponse",
    "ProviderRouter",
    "ProviderStream",
    "Upstream",
    "UpstreamEvent",
    "build_router",
    "needs_local",
]
