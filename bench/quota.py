"""Reserve and settle, on both stores, alone and with many: ``python -m bench.quota [--quick]``.

Every figure is one reserve and one settle of the whole guard (limits on tokens, requests and concurrency), each client
as its own user, in a closed loop without anything between the two: the store is as busy as it can be. ``us CPU`` is the
gateway process's own processor time; the Valkey server's stands beside it.
"""

from __future__ import annotations

import argparse
import asyncio
import resource
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

import msgspec
from tests.support.valkey import running_valkey

from sparkle.clock import SystemClock
from sparkle.llm.quota import LLMCostGuard, PriceTable, TokenCounter, open_store
from sparkle.llm.usage import Principal, Usage
from sparkle.settings import QuotaSettings

ROOT = Path(__file__).resolve().parents[1]
Rows = list[tuple[str, str]]


class Job(msgspec.Struct):
    """What one process measures."""

    store_url: str
    data_dir: str
    clients: int
    seconds: float
    full: bool = False
    """All kinds of limits instead of only tokens per day."""


class Figures(msgspec.Struct):
    """What it found."""

    calls: int
    wall: float
    cpu: float
    reserve_p50: float
    """Seconds one reserve took, as its caller saw it."""
    reserve_p99: float


async def measure(job: Job) -> Figures:
    """Run one process's clients."""
    clock = SystemClock()
    huge = 10**12
    settings = QuotaSettings(tokens_per_day=huge, store_url=job.store_url)
    if job.full:
        settings = msgspec.structs.replace(
            settings, requests_per_minute=10**9, concurrency=10**6, usd_per_day=10**6, usd_per_month=10**6
        )
    store = open_store(settings, Path(job.data_dir), clock=clock)
    guard = LLMCostGuard(settings, store, PriceTable.load(), clock=clock)
    await guard.start()
    usage = Usage(100, 80)
    took: list[float] = []
    deadline = 0.0
    calls = 0

    async def client(index: int) -> None:
        nonlocal calls
        who = Principal(f"user-{index}")
        while (began := time.perf_counter()) < deadline:
            reservation = await guard.reserve(
                who, model="gpt-4o-mini", prompt_tokens=100, max_output_tokens=200
            )
            took.append(time.perf_counter() - began)
            await guard.settle(reservation, usage)
            calls += 1

    for seconds in (job.seconds / 5, job.seconds):
        # The first round only warms up.
        took.clear()
        calls = 0
        wall, cpu = time.perf_counter(), time.process_time()
        deadline = wall + seconds
        await asyncio.gather(*(client(i) for i in range(job.clients)))
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await guard.close()
    took.sort()
    return Figures(calls, wall, cpu, took[len(took) // 2], took[int(len(took) * 0.99)])


def processes(job: Job, count: int) -> list[Figures]:
    """Several processes over one store, at the same time."""
    with ExitStack() as stack:
        running = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-m", "bench.quota", "--job"],
                    cwd=ROOT,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                )
            )
            for _ in range(count)
        ]
        found: list[Figures] = []
        for process in running:
            assert process.stdin is not None
            process.stdin.write(msgspec.json.encode(job) + b"\n")
            process.stdin.flush()
        for process in running:
            out, _ = process.communicate()
            found.append(msgspec.json.decode(out, type=Figures))
        return found


def run(quick: bool = False) -> Rows:
    """Rows of name and figure; about a minute, a quarter of it when ``quick``."""
    seconds = 0.4 if quick else 2.0
    rows: Rows = []
    for kind in ("SQLite", "Valkey"):
        for count in (1, 2):
            for clients in (1, 64) if quick else (1, 16, 64, 256):
                for full in (False, True) if clients == 64 and count == 1 else (False,):
                    rows.append(_row(kind, count, clients, seconds, full))
    return rows + _counter()


def _row(kind: str, count: int, clients: int, seconds: float, full: bool) -> tuple[str, str]:
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        server = stack.enter_context(running_valkey()) if kind == "Valkey" else None
        job = Job(server.url if server else "", folder, clients, seconds, full)
        found = processes(job, count)
        server_cpu = server.cpu_seconds() if server else 0.0
    calls = sum(f.calls for f in found)
    rate = sum(f.calls / f.wall for f in found)
    cpu = sum(f.cpu for f in found) / calls * 1e6
    name = f"quota {kind}, {count} process{'es' if count > 1 else ''}, {clients} clients{', 5 limits' if full else ''}"
    worst = max(f.reserve_p99 for f in found) * 1e6
    median = max(f.reserve_p50 for f in found) * 1e6
    beside = f" + {server_cpu / calls / 1.2 * 1e6:.0f} us server" if server else ""
    return name, f"{rate:,.0f}/s, {cpu:.0f} us CPU{beside}, reserve p50 {median:.0f} us, p99 {worst:.0f} us"


def _counter() -> Rows:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    counter = TokenCounter()
    counter.count_text("", "gpt-4o")
    loaded = time.perf_counter() - began
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    chat = [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "What is the difference between a list and a tuple in Python? " * 5},
    ]
    rounds = 5_000
    began = time.perf_counter()
    for _ in range(rounds):
        counter.count_messages(chat, "gpt-4o")
    each = (time.perf_counter() - began) / rounds * 1e6
    return [
        ("token vocabulary, load", f"{loaded * 1e3:.0f} ms, {grown:.0f} MB"),
        ("token count, 2 messages of 300 characters", f"{each:.1f} us"),
    ]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="a quarter of the time")
    parser.add_argument("--job", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.job:
        job = msgspec.json.decode(sys.stdin.buffer.readline(), type=Job)
        import uvloop

        print(msgspec.json.encode(uvloop.run(measure(job))).decode())
        return
    for name, figure in run(options.quick):
        print(f"{name:50} {figure}")


if __name__ == "__main__":
    main()
