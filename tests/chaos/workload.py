"""What the tasks of the chaos suite do: leave traces that an observer can count, inside the ledger and outside."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

from sqlalchemy import Connection, text

from sparkle.tasks.context import current_task
from sparkle.tasks.registry import long_task
from sparkle.tasks.retry import RetryPolicy

SOON = RetryPolicy(base_seconds=0.1, max_seconds=0.5)
_EFFECT = text("INSERT INTO chaos_effect (task_id, attempt) VALUES (:task, :attempt)")


def _trace(folder: str, word: str) -> None:
    # One file for each task, so that nothing the ledger says is needed to know what really ran.
    with open(Path(folder) / current_task().id, "a", buffering=1) as file:
        file.write(f"{word} {current_task().attempt} {os.getpid()}\n")


def _effect(connection: Connection, task: str, attempt: int) -> None:
    connection.execute(_EFFECT, {"task": task, "attempt": attempt})


@long_task("chaos.step", retry=SOON)
def step(folder: str, seconds: float) -> None:
    """Leave a trace outside, take a while, write an effect inside, leave another trace."""
    _trace(folder, "begin")
    time.sleep(seconds)
    task = current_task()
    _effect(task.connection(), task.id, task.attempt)
    _trace(folder, "end")


@long_task("chaos.step_async", retry=SOON)
async def step_async(folder: str, seconds: float) -> None:
    """The same without occupying a process while it waits."""
    task = current_task()
    _trace(folder, "begin")
    await asyncio.sleep(seconds)
    id, attempt = task.id, task.attempt
    task.on_completion(lambda connection: _effect(connection, id, attempt))
    _trace(folder, "end")


@long_task("chaos.flaky", retry=SOON, max_attempts=4)
def flaky(folder: str, seconds: float, percent: int) -> None:
    """Fail in ``percent`` of all attempts, decided by the task's id and attempt alone."""
    _trace(folder, "begin")
    time.sleep(seconds)
    task = current_task()
    if hash_percent(task.id, task.attempt) < percent:
        raise RuntimeError("injected")
    _effect(task.connection(), task.id, task.attempt)
    _trace(folder, "end")


def hash_percent(task: str, attempt: int) -> int:
    """A number below 100 that anybody can compute again."""
    import zlib

    return zlib.crc32(f"{task} {attempt}".encode()) % 100
