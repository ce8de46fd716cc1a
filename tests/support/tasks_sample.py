"""Long tasks for tests. What they do outside the ledger goes as lines into a file, so that runs can be counted."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

from sqlalchemy import text

from sparkle.tasks.context import current_task
from sparkle.tasks.registry import long_task
from sparkle.tasks.retry import RetryPolicy

SOON = RetryPolicy(base_seconds=0.05, max_seconds=0.1)


def note(path: str, word: str) -> None:
    """Append one line; lines of several processes don't mix."""
    with open(path, "a", buffering=1) as file:
        file.write(word + "\n")


def noted(path: Path) -> list[str]:
    """The lines written so far."""
    return path.read_text().split() if path.exists() else []


def wait_for_file(path: str) -> None:
    """Return once the file exists: how a test lets a task go on."""
    while not os.path.exists(path):
        time.sleep(0.01)


@long_task("t.echo")
def echo(value: Any) -> Any:
    return value


@long_task("t.echo_async")
async def echo_async(value: Any) -> Any:
    await asyncio.sleep(0)
    return value


@long_task("t.write")
def write(path: str, word: str, seconds: float = 0.0) -> None:
    """Leave a line when begun and one when done."""
    note(path, f"begin:{word}")
    time.sleep(seconds)
    note(path, f"end:{word}")


@long_task("t.write_async")
async def write_async(path: str, word: str, seconds: float = 0.0) -> None:
    note(path, f"begin:{word}")
    await asyncio.sleep(seconds)
    note(path, f"end:{word}")


@long_task("t.hold")
def hold(path: str, word: str, until: str) -> str:
    """Run until the file ``until`` exists."""
    note(path, f"begin:{word}")
    wait_for_file(until)
    note(path, f"end:{word}")
    return word


@long_task("t.hold_async")
async def hold_async(path: str, word: str, until: str) -> str:
    note(path, f"begin:{word}")
    while not os.path.exists(until):  # noqa: ASYNC110, ASYNC240  another process makes it
        await asyncio.sleep(0.01)
    note(path, f"end:{word}")
    return word


@long_task("t.fail", max_attempts=3, retry=SOON)
def fail(*parts: str) -> None:
    raise ValueError("".join(parts))


@long_task("t.fail_once", max_attempts=3, retry=SOON)
def fail_once(path: str) -> int:
    """Fail at the first attempt; returns the attempt that succeeded."""
    note(path, current_task().idempotency_token)
    if current_task().attempt == 1:
        raise ValueError("not yet")
    return current_task().attempt


@long_task("t.slow", timeout=0.3, max_attempts=1)
def slow() -> None:
    time.sleep(60)


@long_task("t.slow_async", timeout=0.3, max_attempts=1)
async def slow_async() -> None:
    await asyncio.sleep(60)


@long_task("t.stubborn", timeout=0.2, hard_timeout=0.5, max_attempts=1)
def stubborn(path: str) -> None:
    """Swallow every interruption."""
    note(path, "begin")
    while True:
        try:
            time.sleep(60)
        except Exception:  # noqa: BLE001  that is what it is for
            note(path, "swallowed")


@long_task("t.progress")
def progress(until: str) -> None:
    current_task().report_progress(0.5, "half way")
    wait_for_file(until)


@long_task("t.poison", retry=SOON)
def poison(path: str) -> None:
    """Kill the process that runs it."""
    note(path, "poison")
    os.kill(os.getpid(), signal.SIGKILL)


@long_task("t.effect", max_attempts=2, retry=SOON)
def effect(word: str, fail_first: bool = False) -> None:
    """Write a row in the completing transaction, then perhaps fail."""
    task = current_task()
    task.connection().execute(
        text("INSERT INTO sample_effect (word, attempt) VALUES (:word, :attempt)"),
        {"word": word, "attempt": task.attempt},
    )
    if fail_first and task.attempt == 1:
        raise ValueError("after the write")


@long_task("t.effect_async")
async def effect_async(word: str) -> None:
    attempt = current_task().attempt
    await asyncio.sleep(0)
    current_task().on_completion(
        lambda connection: connection.execute(
            text("INSERT INTO sample_effect (word, attempt) VALUES (:word, :attempt)"),
            {"word": word, "attempt": attempt},
        )
    )


_guests: dict[str, int] = {}


@long_task("t.meet")
async def meet(place: str, guests: int, until: str) -> bool:
    """True once so many are here: only possible if they run at the same time in one process. False: gave up."""
    _guests[place] = _guests.get(place, 0) + 1
    while _guests[place] < guests:
        if os.path.exists(until):  # noqa: ASYNC240  another process makes it
            return False
        await asyncio.sleep(0.01)
    return True


@long_task("t.order")
def order(path: str, word: str) -> None:
    note(path, word)


@long_task("t.unstorable")
def unstorable() -> object:
    return object()


@long_task("t.gil", timeout=0.2, hard_timeout=0.4, max_attempts=1)
def gil(path: str) -> None:
    """Hold Python's lock in C code, for good: no other thread of the process runs any more."""
    note(path, "begin")
    re.match("(a+)+$", "a" * 60 + "b")
