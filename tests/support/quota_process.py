"""A process with a guard of its own, for tests that need real ones: ``python -m tests.support.quota_process``.

It is told what to do by one JSON line on stdin (:class:`Order`) and answers in JSON lines on stdout.
"""

from __future__ import annotations

import asyncio
import os
import random
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from sparkle.clock import SystemClock
from sparkle.errors import QuotaExceededError, RateLimitError
from sparkle.llm.quota import LLMCostGuard, PriceTable, open_store
from sparkle.llm.usage import Principal, Usage
from sparkle.settings import QuotaSettings

ROOT = Path(__file__).resolve().parents[2]


class Order(msgspec.Struct):
    """What the process shall do."""

    do: str
    """``hammer``: many clients until the quota is used up; ``hold``: reserve, note progress, and wait to be killed;
    ``spend``: reserve, settle, and wait to be killed."""
    store_url: str
    data_dir: str
    limit: int
    size: int
    """Tokens of one call."""
    clients: int = 1
    least_used: int = 0
    """Calls settle with a random number of tokens from here to ``size``."""
    seed: int = 0
    lease_seconds: float = 10.0
    progress: int = 0


class Report(msgspec.Struct):
    """What the process did."""

    granted: int = 0
    spent: int = 0
    most_seen: int = 0
    """Largest ``used + reserved`` any grant reported."""


def guard_for(order: Order) -> LLMCostGuard:
    """A guard over the store that the order names, on the machine's clock."""
    clock = SystemClock()
    settings = QuotaSettings(
        tokens_per_day=order.limit,
        store_url=order.store_url,
        lease_seconds=order.lease_seconds,
        concurrency=10_000,
    )
    return LLMCostGuard(
        settings, open_store(settings, Path(order.data_dir), clock=clock), PriceTable.load(), clock=clock
    )


async def hammer(order: Order) -> Report:
    """Every client calls until the quota really is used up; one that is only held makes it try again."""
    guard, report, chance = guard_for(order), Report(), random.Random(order.seed)
    await guard.start()
    who = Principal("everybody")

    async def client() -> None:
        while True:
            try:
                reservation = await guard.reserve(
                    who, model="free", prompt_tokens=order.size, max_output_tokens=0
                )
            except QuotaExceededError:
                return
            except RateLimitError:
                await asyncio.sleep(0.002)
                continue
            state = next(s for s in reservation.limits if s.kind == "tokens_per_day")
            report.most_seen = max(report.most_seen, state.used + state.reserved)
            await asyncio.sleep(0)
            spent = chance.randint(order.least_used, order.size)
            await guard.settle(reservation, Usage(spent, 0))
            report.granted += 1
            report.spent += spent

    await asyncio.gather(*(client() for _ in range(order.clients)))
    await guard.close()
    return report


async def hold(order: Order) -> None:
    """Hold one reservation, with its progress persisted, until somebody kills this process."""
    guard = guard_for(order)
    await guard.start()
    reservation = await guard.reserve(
        Principal("everybody"), model="free", prompt_tokens=order.size, max_output_tokens=0
    )
    guard.progress(reservation, Usage(order.progress, 0))
    await guard.beat()
    say(Report(granted=1, spent=order.progress))
    await asyncio.Event().wait()


async def spend(order: Order) -> None:
    """Settle one call and say so the moment the settlement returns."""
    guard = guard_for(order)
    await guard.start()
    reservation = await guard.reserve(
        Principal("everybody"), model="free", prompt_tokens=order.size, max_output_tokens=0
    )
    await guard.settle(reservation, Usage(order.size, 0))
    say(Report(granted=1, spent=order.size))
    await asyncio.Event().wait()


def say(report: Report) -> None:
    """One JSON line."""
    sys.stdout.buffer.write(msgspec.json.encode(report) + b"\n")
    sys.stdout.flush()


@dataclass
class Started:
    """A running process."""

    process: asyncio.subprocess.Process

    async def report(self) -> Report:
        """Its next report."""
        assert self.process.stdout is not None
        return msgspec.json.decode(await self.process.stdout.readline(), type=Report)

    async def kill(self) -> None:
        """``kill -9``."""
        if self.process.returncode is None:
            self.process.kill()
        await self.process.communicate()


async def start(order: Order) -> Started:
    """Start a process and give it its order."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.support.quota_process"),
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert process.stdin is not None
    process.stdin.write(msgspec.json.encode(order) + b"\n")
    await process.stdin.drain()
    return Started(process)


def main() -> None:
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    if order.do == "hammer":
        say(asyncio.run(hammer(order)))
    else:
        asyncio.run(hold(order) if order.do == "hold" else spend(order))


if __name__ == "__main__":
    main()
