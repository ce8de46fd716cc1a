"""Plain Celery for the comparison, set up so that a dead worker loses nothing: late acknowledgement, no results.

``python celery_bench.py KIND COUNT`` enqueues some and prints the seconds.
"""

# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUntypedFunctionDecorator=false
# Celery has no types.

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from celery import Celery
from marks import WAIT_SECONDS, mark

app = Celery("celery_bench", broker=os.environ["BENCH_BROKER"])
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    task_ignore_result=True,
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
)


@app.task(name="noop")
def noop() -> None:
    """Nothing but the mark."""
    mark()


@app.task(name="wait")
def wait() -> None:
    """10 ms of waiting: a plain function, which is all that Celery knows."""
    time.sleep(WAIT_SECONDS)
    mark()


if __name__ == "__main__":
    task: Any = {"noop": noop, "wait": wait}[sys.argv[1]]
    task.app.connection_for_write().connect()
    began = time.perf_counter()
    for _ in range(int(sys.argv[2])):
        task.delay()
    print(json.dumps({"seconds": time.perf_counter() - began}))
