"""Sparkle's tasks for the comparison; ``python sparkle_app.py KIND COUNT`` schedules some and prints the seconds.

KIND is ``noop`` or ``wait`` (in batches of 500, as a caller with many tasks does it), ``single`` (no-ops, one call
each) or ``latency`` (like single; prints the sorted milliseconds of every call).
"""

from __future__ import annotations

import asyncio
import json
import sys
import time

from marks import WAIT_SECONDS, mark

from sparkle import long_task, schedule_long_task, schedule_long_tasks
from sparkle.tasks.calls import TaskCall

_BATCH = 500


@long_task("noop")
def noop() -> None:
    """Nothing but the mark."""
    mark()


@long_task("wait")
async def wait() -> None:
    """10 ms of waiting, as for a database."""
    await asyncio.sleep(WAIT_SECONDS)
    mark()


def main(kind: str, count: int) -> None:
    """Schedule ``count`` tasks."""
    schedule_long_task("noop", delay=3600, idempotency_key="opens the ledger")
    began = time.perf_counter()
    if kind in ("single", "latency"):
        each: list[float] = []
        for _ in range(count):
            before = time.perf_counter()
            schedule_long_task("noop")
            each.append((time.perf_counter() - before) * 1000)
        answer = {"seconds": time.perf_counter() - began, "milliseconds": sorted(each)}
        print(json.dumps(answer if kind == "latency" else {"seconds": answer["seconds"]}))
        return
    for start in range(0, count, _BATCH):
        schedule_long_tasks([TaskCall(kind)] * min(_BATCH, count - start))
    print(json.dumps({"seconds": time.perf_counter() - began}))


if __name__ == "__main__":
    # Registered under its module's own name too, as the worker knows it.
    main(sys.argv[1], int(sys.argv[2]))
