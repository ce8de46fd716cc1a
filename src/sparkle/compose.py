"""The composition root: builds the objects of a process from its settings, and nothing else does.

``preload`` does the heavy part that forked workers share (rules and their automata); ``build_services`` builds what
belongs to one process and its event loop; ``open_wrapper`` does both for a library user.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from sparkle.clock import Clock, SystemClock
from sparkle.llm.guards import Guards
from sparkle.llm.monitoring import AuditLog, LLMMonitor
from sparkle.llm.policy_source import PolicySnapshot, PolicyWatcher, ReloadResult
from sparkle.llm.providers import LocalModel, ProviderRouter, UpstreamEvent, build_router
from sparkle.llm.quota import LLMCostGuard, PriceTable, TokenCounter, open_store
from sparkle.llm.security_wrapper import LLMSecurityWrapper
from sparkle.owned_tasks import OwnedTasks
from sparkle.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Preloaded:
    """What is loaded once, before workers are forked."""

    tokens: TokenCounter
    prices: PriceTable
    watcher: PolicyWatcher[Guards]
    """Holds the first policy; each process polls with its own copy."""


def preload(settings: Settings, *, clock: Clock | None = None) -> Preloaded:
    """Load the policy, compile its rules, read the price table.

    Raises:
        PolicyError: The policy file is wrong.
        ConfigurationError: The price table is wrong.
    """
    tokens = TokenCounter()
    build = partial(Guards.build, folder=settings.data_dir / "models")
    watcher = PolicyWatcher(settings.policy or None, build, clock=clock or SystemClock())
    return Preloaded(tokens, PriceTable.load(settings.quota.prices_file), watcher)


@dataclass(slots=True)
class Services:
    """The parts of one process, with one lifetime."""

    settings: Settings
    wrapper: LLMSecurityWrapper
    quota: LLMCostGuard
    provider: ProviderRouter
    monitor: LLMMonitor
    watcher: PolicyWatcher[Guards]
    tasks: OwnedTasks = field(default_factory=OwnedTasks)

    def guards(self) -> Guards:
        """The guards of the policy in force."""
        return self.watcher.current.value

    async def start(self) -> None:
        """Open connections; begin heartbeats and the policy watch.

        Raises:
            StoreUnavailableError: The quota store does not answer.
            ConfigurationError: A part cannot start.
        """
        await self.provider.start()
        await self.quota.start()
        self.tasks.keep(self.watcher.run(), name="policy watch")
        self.tasks.keep(self._learn_models(), name="model names")

    async def close(self) -> None:
        """End all in the opposite order; what is queued is recorded first."""
        await self.tasks.close()
        await self.provider.close()
        await self.quota.close()
        await self.monitor.close()

    def policy_status(self) -> dict[str, Any]:
        """The policy in force and whether its newest version is it."""
        status = self.watcher.status()
        return {"name": status.name, "hash": status.hash, "error": status.error}

    def render_metrics(self) -> tuple[bytes, str]:
        """Prometheus text and its content type."""
        return self.monitor.render_metrics()

    async def _learn_models(self) -> None:
        models = await self.provider.models()
        self.monitor.know_models(str(entry["id"]) for entry in models)


def build_services(
    settings: Settings,
    preloaded: Preloaded,
    *,
    clock: Clock | None = None,
    local: LocalModel | None = None,
) -> Services:
    """Build the parts of one process; nothing is connected before :meth:`Services.start`.

    Args:
        settings: Everything configurable.
        preloaded: What :func:`preload` returned, in this process or in the one that forked it.
        clock: Time; ``None``: the machine's.
        local: The local model, if one runs; whoever made it keeps it alive.
    """
    clock = clock or SystemClock()
    audit = None
    if settings.monitoring.audit:
        audit = AuditLog(
            settings.data_dir / "audit", clock=clock, retention_days=settings.monitoring.audit_retention_days
        )
    monitor = LLMMonitor(settings.monitoring, audit, clock=clock)

    def reloaded(result: ReloadResult, snapshot: PolicySnapshot[Guards]) -> None:
        if result != "unchanged":
            monitor.policy_reloaded(result)
        monitor.use_policy(snapshot.policy, snapshot.hash)

    watcher = preloaded.watcher
    watcher.on_reload = reloaded
    monitor.use_policy(watcher.current.policy, watcher.current.hash)

    def observe(event: UpstreamEvent) -> None:
        monitor.upstream_event(event)

    rng = random.Random()  # noqa: S311  for jitter, not for secrets
    provider = build_router(settings.provider, local=local, clock=clock, rng=rng, observe=observe)
    monitor.watch_circuits(provider.circuits)
    quota = LLMCostGuard(
        settings.quota,
        open_store(settings.quota, settings.data_dir, clock=clock),
        preloaded.prices,
        clock=clock,
    )
    wrapper = LLMSecurityWrapper(
        guards=lambda: watcher.current.value,
        quota=quota,
        tokens=preloaded.tokens,
        provider=provider,
        monitor=monitor,
        clock=clock,
    )
    return Services(settings, wrapper, quota, provider, monitor, watcher)


@asynccontextmanager
async def open_wrapper(settings: Settings | None = None) -> AsyncGenerator[LLMSecurityWrapper]:
    """The guarded call as a library.

    ::

        async with open_wrapper() as wrapper:
            result = await wrapper.chat("alice", [{"role": "user", "content": "Hello"}])

    With no upstream configured the local model answers, from a child process that lives as long as the context.

    Raises:
        ConfigurationError: Settings, policy or a missing extra.
        StoreUnavailableError: The quota store does not answer.
    """
    settings = settings or load_settings()
    await asyncio.to_thread(settings.data_dir.mkdir, mode=0o700, parents=True, exist_ok=True)
    preloaded = await asyncio.to_thread(preload, settings)
    async with AsyncExitStack() as stack:
        local = LocalModel.wanted(settings.provider, settings.data_dir)
        if local is not None:
            await local.start()
            stack.push_async_callback(local.stop)
        services = build_services(settings, preloaded, local=local)
        await services.start()
        stack.push_async_callback(services.close)
        yield services.wrapper
