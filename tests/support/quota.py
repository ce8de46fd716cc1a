"""What the quota tests share: guards over every store, a store kept in memory."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tests.support.clock import ManualClock

from sparkle.errors import StoreUnavailableError
from sparkle.llm.quota import LLMCostGuard, PriceTable, QuotaStore, Reservation, engine
from sparkle.llm.quota.ops import Batch, Hold, Result
from sparkle.llm.quota.sqlite_store import SqliteStore
from sparkle.llm.quota.valkey_store import ValkeyStore
from sparkle.llm.usage import Principal, Usage
from sparkle.settings import QuotaSettings

#: Noon in UTC, far enough ahead that no server expires a key of today (2065-01-24).
NOON = 3_000_000_000.0 - 3_000_000_000.0 % 86_400 + 43_200

ALICE = Principal("alice", team="physics", key_id="key-1")
BOB = Principal("bob", team="physics", key_id="key-2")

PRICES = PriceTable.load()
_counter = itertools.count()


class OpenStore(Protocol):
    """Opens one more process's connection to the same store."""

    def __call__(self, clock: ManualClock) -> QuotaStore: ...


def sqlite_opener(path: Path) -> OpenStore:
    return lambda clock: SqliteStore(path, clock=clock)


def valkey_opener(url: str) -> OpenStore:
    """A part of the server of its own."""
    prefix = f"{{test:{next(_counter)}}}"
    return lambda clock: ValkeyStore(url, clock=clock, prefix=prefix, server_time=False)


@dataclass
class House:
    """Several guards ("processes") over one store and one clock."""

    open_store: OpenStore
    settings: QuotaSettings = field(default_factory=QuotaSettings)
    clock: ManualClock = field(default_factory=lambda: ManualClock(NOON))
    guards: list[LLMCostGuard] = field(default_factory=list[LLMCostGuard])

    async def guard(self, settings: QuotaSettings | None = None, *, name: str | None = None) -> LLMCostGuard:
        new_id: dict[str, Callable[[], str]] = {} if name is None else {"new_id": lambda: name}
        guard = LLMCostGuard(
            settings or self.settings, self.open_store(self.clock), PRICES, clock=self.clock, **new_id
        )
        await guard.start()
        self.guards.append(guard)
        return guard

    async def stall(self, guard: LLMCostGuard) -> None:
        """The process lives, but its heart stands still."""
        inside: Any = guard
        inside._heart.cancel()
        await asyncio.wait([inside._heart])

    async def kill(self, guard: LLMCostGuard) -> None:
        """What ``kill -9`` leaves: nothing is written, nobody says goodbye."""
        await abandon(guard)
        self.guards.remove(guard)

    async def close(self) -> None:
        for guard in self.guards:
            await guard.close()
        self.guards.clear()


async def abandon(guard: LLMCostGuard) -> None:
    """Stop a guard without a word to its store."""
    inside: Any = guard
    heart: asyncio.Task[None] | None = inside._heart
    inside._heart = None
    if heart is not None:
        heart.cancel()
        await asyncio.wait([heart])
    await inside._commit.close()
    await inside._store.close()


async def ask(
    guard: LLMCostGuard,
    who: Principal = ALICE,
    tokens: int = 100,
    answer: int | None = 0,
    *,
    model: str = "free",
) -> Reservation:
    """Reserve ``tokens`` of prompt and ``answer`` tokens of answer."""
    return await guard.reserve(who, model=model, prompt_tokens=tokens, max_output_tokens=answer)


def used(tokens: int) -> Usage:
    return Usage(tokens, 0)


async def amounts(guard: LLMCostGuard, who: Principal = ALICE) -> dict[str, tuple[int, int]]:
    """``"kind/scope"`` to ``(used, reserved)``."""
    return {f"{s.kind}/{s.scope}": (s.used, s.reserved) for s in await guard.snapshot(who)}


class DictLedger:
    """The engine's ledger as plain dictionaries.

    Like a real one it keeps of a meter only what the engine left dirty.
    """

    def __init__(self) -> None:
        self.meters: dict[str, engine.Meter] = {}
        self._touched: dict[str, engine.Meter] = {}
        self.live: dict[str, tuple[str, tuple[Hold, ...], tuple[int, ...]]] = {}
        self.late: dict[str, tuple[int, ...]] = {}
        self.leases: dict[str, tuple[int, int]] = {}

    def meter(self, key: str) -> engine.Meter:
        if key not in self._touched:
            known = self.meters.get(key, engine.Meter())
            log = [list(entry) for entry in known.log]
            self._touched[key] = engine.Meter(known.spent, known.reserved, known.expires, log)
        return self._touched[key]

    def apply(self, batch: Batch, now: int) -> list[Result]:
        """One transaction."""
        results = engine.apply(self, batch, now)
        self.meters.update((key, meter) for key, meter in self._touched.items() if meter.dirty)
        self._touched.clear()
        return results

    def add(self, reservation: str, owner: str, holds: tuple[Hold, ...]) -> None:
        self.live[reservation] = (owner, holds, ())

    def take(self, reservation: str) -> bool:
        return self.live.pop(reservation, None) is not None

    def held(self, reservation: str) -> tuple[Hold, ...] | None:
        return self.live[reservation][1] if reservation in self.live else None

    def held_by(self, owner: str) -> Sequence[tuple[str, tuple[Hold, ...], tuple[int, ...]]]:
        return [(r, holds, progress) for r, (o, holds, progress) in self.live.items() if o == owner]

    def set_progress(self, reservation: str, amounts: tuple[int, ...]) -> None:
        if reservation in self.live:
            owner, holds, _ = self.live[reservation]
            self.live[reservation] = (owner, holds, amounts)

    def add_late(self, reservation: str, charged: tuple[int, ...], expires: int) -> None:
        self.late.setdefault(reservation, charged)

    def take_late(self, reservation: str) -> tuple[int, ...] | None:
        return self.late.pop(reservation, None)

    def was_cancelled(self, reservation: str) -> bool:
        return reservation in self.late

    def owner(self, owner: str) -> tuple[int, int] | None:
        return self.leases.get(owner)

    def owners(self) -> Iterable[tuple[str, int]]:
        return [(owner, until) for owner, (until, _) in self.leases.items()]

    def put_owner(self, owner: str, lease_until: int, beat_at: int) -> None:
        self.leases[owner] = (lease_until, beat_at)

    def drop_owner(self, owner: str) -> None:
        self.leases.pop(owner, None)


class ScriptedStore:
    """A store in memory whose failures and delays a test decides.

    ``faults`` are raised one after another, each instead of one batch; ``gate`` holds batches back while it is clear.
    With ``after=True`` a fault strikes after the batch was applied: its answer is lost.
    """

    offset = 0.0

    def __init__(self, clock: ManualClock) -> None:
        self.ledger = DictLedger()
        self.batches: list[Batch] = []
        self.faults: list[tuple[BaseException, bool]] = []
        self.down = False
        self.gate = asyncio.Event()
        self.gate.set()
        self._clock = clock
        self._tried = asyncio.Event()

    async def tried(self) -> None:
        """Wait until the next batch was applied or failed, and its callers were told."""
        self._tried.clear()
        await self._tried.wait()
        await asyncio.sleep(0)

    def fail_next(self, fault: BaseException, *, after: bool = False) -> None:
        self.faults.append((fault, after))

    async def start(self) -> None:
        return

    async def apply(self, batch: Batch) -> list[Result]:
        await self.gate.wait()
        self._tried.set()
        if self.down:
            raise StoreUnavailableError(details={"cause": "down"})
        fault, after = self.faults.pop(0) if self.faults else (None, False)
        if fault is not None and not after:
            raise fault
        self.batches.append(batch)
        results = self.ledger.apply(batch, int(self._clock.now() * 1000))
        if fault is not None:
            raise fault
        return results

    async def maintain(self) -> None:
        return

    async def close(self) -> None:
        return
