"""dramatiq on Redis for the comparison; ``python dramatiq_bench.py KIND COUNT`` enqueues some, prints seconds."""

# pyright: reportMissingImports=false, reportUnknownVariableType=false, reportUnknownMemberType=false
# pyright: reportUntypedFunctionDecorator=false, reportUnknownArgumentType=false
# dramatiq is installed where this file is run, and not where it is checked.

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from marks import WAIT_SECONDS, mark

dramatiq.set_broker(RedisBroker(url=os.environ["BENCH_BROKER"]))


@dramatiq.actor(actor_name="noop")
def noop() -> None:
    """Nothing but the mark."""
    mark()


@dramatiq.actor(actor_name="wait")
def wait() -> None:
    """10 ms of waiting, in one of the worker's threads."""
    time.sleep(WAIT_SECONDS)
    mark()


if __name__ == "__main__":
    actor: Any = {"noop": noop, "wait": wait}[sys.argv[1]]
    actor.broker.client.ping()
    began = time.perf_counter()
    for _ in range(int(sys.argv[2])):
        actor.send()
    print(json.dumps({"seconds": time.perf_counter() - began}))
