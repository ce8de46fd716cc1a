"""From settings to a router."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from sparkle.clock import Clock, SystemClock
from sparkle.errors import ConfigurationError
from sparkle.llm.providers.address import parse_address, proxy_for
from sparkle.llm.providers.events import UpstreamEvent
from sparkle.llm.providers.router import ProviderRouter
from sparkle.llm.providers.upstream import Upstream
from sparkle.settings import ProviderSettings, UpstreamSettings

if TYPE_CHECKING:
    from sparkle.llm.providers.local import LocalModel

DEFAULT_NAME = "default"
LOCAL_NAME = "local"


def needs_local(settings: ProviderSettings) -> bool:
    """Whether the local model has to run: nothing else is configured, or an alias names it (``"local/..."``)."""
    if not settings.upstream and not settings.upstreams:
        return True
    if any(upstream.name == LOCAL_NAME for upstream in settings.upstreams):
        return False
    return any(
        target.startswith(f"{LOCAL_NAME}/") for targets in settings.aliases.values() for target in targets
    )


def build_router(
    settings: ProviderSettings,
    *,
    local: LocalModel | None = None,
    clock: Clock | None = None,
    rng: random.Random | None = None,
    environ: Mapping[str, str] | None = None,
    observe: Callable[[UpstreamEvent], None] | None = None,
) -> ProviderRouter:
    """Build the router and its upstreams; opens no connection.

    Args:
        settings: ``upstreams`` in their order; else the single ``upstream``, named ``default``, with the key of
            ``OPENAI_API_KEY``.
        local: The local model, if one runs (in this process's care or in its parent's); it comes last.
        clock: ``None``: the machine's.
        rng: Source of the jitter; ``None``: seeded by the operating system.
        environ: Variables for keys and proxies; ``None``: the process's own.
        observe: Told about every attempt.

    Raises:
        ConfigurationError: A URL is wrong, a key's variable is not set, names clash, or there is no upstream at all.
    """
    env = os.environ if environ is None else environ
    upstreams = [_configured(one, env) for one in settings.upstreams]
    if not upstreams and settings.upstream:
        single = UpstreamSettings(name=DEFAULT_NAME, base_url=settings.upstream)
        upstreams.append(_upstream(single, env.get("OPENAI_API_KEY", ""), env))
    if local is not None:
        upstreams.append(local.endpoint.upstream(has_peers=bool(upstreams)))
    if not upstreams:
        raise ConfigurationError("no upstream is configured and no local model runs")
    return ProviderRouter(
        settings, upstreams, clock=clock or SystemClock(), rng=rng or random.SystemRandom(), observe=observe
    )


def _configured(one: UpstreamSettings, env: Mapping[str, str]) -> Upstream:
    key = one.api_key
    if not key and one.api_key_env:
        key = env.get(one.api_key_env, "")
        if not key:
            raise ConfigurationError(f"upstream {one.name!r}: the variable {one.api_key_env} is not set")
    return _upstream(one, key, env)


def _upstream(one: UpstreamSettings, key: str, env: Mapping[str, str]) -> Upstream:
    return Upstream(
        one.name,
        one.base_url,
        api_key=key,
        models=one.models,
        max_connections=one.max_connections,
        proxy=proxy_for(parse_address(one.base_url, one.name), env),
    )
