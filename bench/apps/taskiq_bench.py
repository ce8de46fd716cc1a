"""taskiq on Redis streams for the comparison; ``python taskiq_bench.py KIND COUNT`` enqueues some, prints seconds."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownArgumentType=false
# taskiq is installed where this file is run, and not where it is checked.

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from typing import Any

from marks import WAIT_SECONDS, mark
from taskiq_redis import RedisStreamBroker

broker = RedisStreamBroker(os.environ["BENCH_BROKER"])


@broker.task(task_name="noop")
async def noop() -> None:
    """Nothing but the mark."""
    mark()


@broker.task(task_name="wait")
async def wait() -> None:
    """10 ms of waiting."""
    await asyncio.sleep(WAIT_SECONDS)
    mark()


async def main(kind: str, count: int) -> None:
    """Enqueue ``count`` tasks."""
    task: Any = {"noop": noop, "wait": wait}[kind]
    await broker.startup()
    began = time.perf_counter()
    for _ in range(count):
        await task.kiq()
    print(json.dumps({"seconds": time.perf_counter() - began}))
    await broker.shutdown()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], int(sys.argv[2])))
