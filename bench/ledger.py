"""The tasks' ledger alone: scheduling, a page, counting, purging and size at a million tasks.

``python -m bench.rooms bench.ledger [--quick]``; ``--quick`` fills in 50,000 instead. PostgreSQL is measured where its
server is installed, without fsync, so its figures say what statements cost, not what its disk does.
"""

from __future__ import annotations

import os
import statistics
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from sqlalchemy import text
from tests.support.postgres import postgres_folder, running_postgres

from sparkle.settings import load_settings
from sparkle.tasks.calls import TaskCall
from sparkle.tasks.ledger.engine import ledger_url, make_engine
from sparkle.tasks.ledger.migrate import migrate
from sparkle.tasks.ledger.schema import task as table
from sparkle.tasks.record import NewTask, TaskFilter
from sparkle.tasks.states import TaskState
from sparkle.tasks.tasks import Tasks

Rows = list[tuple[str, str]]

QUEUE = "sparkle.default.sync"
NAMES = ("generate_node_embedding", "update_mastery", "record_token_usage", "visualize_graph")
USERS = 2_000
CHUNK = 20_000
COLUMNS = (
    *(
        "id",
        "mode",
        "name",
        "user_id",
        "state",
        "queue",
        "priority",
        "args",
        "result",
        "error_type",
        "error_message",
    ),
    *("attempt", "max_attempts", "created_at", "due_at", "started_at", "finished_at", "lease_owner", "fence"),
    "progress",
)
DAY = 86_400_000_000


def run(quick: bool) -> Rows:
    """Measure both databases."""
    rows: Rows = []
    size = 50_000 if quick else 1_000_000
    with tempfile.TemporaryDirectory(prefix="ledger") as folder, opened(Path(folder), "") as tasks:
        rows += measure(tasks, "SQLite", size, quick)
    try:
        postgres_folder()
    except FileNotFoundError as exc:
        return [*rows, ("PostgreSQL", str(exc))]
    with running_postgres() as server, tempfile.TemporaryDirectory(prefix="ledger") as folder:
        url = server.database()
        engine = make_engine(ledger_url(url), synchronous="normal", busy_seconds=10.0)
        migrate(engine)
        engine.dispose()
        with opened(Path(folder), url) as tasks:
            rows += measure(tasks, "PostgreSQL", size // 10, quick)
    return rows


@contextmanager
def opened(folder: Path, url: str) -> Generator[Tasks]:
    """``schedule_long_task`` without a relay."""
    overrides = {"data_dir": str(folder), "tasks.database_url": url}
    tasks = Tasks.open(load_settings(environ={}, overrides=overrides))
    try:
        yield tasks
    finally:
        tasks.close()


def measure(tasks: Tasks, name: str, size: int, quick: bool) -> Rows:
    """All figures of one database."""
    ledger = tasks.ledger
    single, batch = (300, 5_000) if quick else (3_000, 50_000)
    began = time.perf_counter()
    for at in range(single):
        tasks.schedule([call(at)])
    each = single / (time.perf_counter() - began)
    began = time.perf_counter()
    for start in range(0, batch, 5_000):
        tasks.schedule([call(start + at) for at in range(5_000)])
    batched = batch / (time.perf_counter() - began)
    lives = life(tasks, 2_000 if quick else 10_000)
    fill(tasks, size)
    user = TaskFilter(user_id="user-77")
    first = quantiles(lambda: ledger.find(user, limit=50))
    cursor = ledger.find(user, limit=100).next_cursor
    later = quantiles(lambda: ledger.find(user, cursor=cursor, limit=50))
    dead = quantiles(lambda: ledger.find(TaskFilter(states=frozenset({TaskState.FAILED})), limit=50))
    active = timed(lambda: ledger.counts(finished=False))
    counted = timed(lambda: ledger.counts())
    held = ledger.size()
    room = [
        (f"{name}: schedule_long_task, one at a time", f"{each:,.0f}/s"),
        (f"{name}: schedule_long_tasks, 5,000 at a time", f"{batched:,.0f}/s"),
        (f"{name}: hand over, claim and complete by 32", f"{lives:,.0f}/s"),
        (f"{name}: tasks in the ledger", f"{size:,}"),
        (f"{name}: first page of a user's tasks, p50 / p99", first),
        (f"{name}: third page, p50 / p99", later),
        (f"{name}: page of dead letters, p50 / p99", dead),
        (f"{name}: counts of unfinished / of all", f"{active * 1e3:.1f} / {counted * 1e3:.0f} ms"),
        (f"{name}: size", f"{held.bytes / 1e6:,.0f} MB, {held.bytes / max(held.tasks, 1):.0f} bytes a task"),
    ]
    return room + purge(tasks, name, size)


def call(at: int) -> TaskCall:
    """A task as an application asks for it."""
    kwargs = {"user_id": f"user-{at % USERS}", "skill": "limits", "correct": at % 3 != 0}
    return TaskCall("update_mastery", kwargs=kwargs, user_id=f"user-{at % USERS}")


def life(tasks: Tasks, count: int) -> float:
    """Tasks per second through the ledger's part of their life: WAITING to SUCCEEDED, no broker, no work."""
    ledger = tasks.ledger
    ledger.add([NewTask(name="noop", queue="bench") for _ in range(count)])
    done = 0
    began = time.perf_counter()
    while handed := ledger.hand_over({"bench": 512}):
        ids = [task.id for task in handed]
        for start in range(0, len(ids), 32):
            claims = ledger.claim(ids[start : start + 32], "bench", 6.0)
            ledger.complete_many([(claim, None) for claim in claims])
            done += len(claims)
    return done / (time.perf_counter() - began)


def fill(tasks: Tasks, size: int) -> None:
    """Finished tasks of 30 days, as an application leaves them: 98 % succeeded, 1 % failed, 1 % cancelled."""
    ledger = tasks.ledger
    base = ledger.now() - 30 * DAY
    args = msgspec.json.encode({"args": [], "kwargs": {"user_id": "user-1", "skill": "limits"}}).decode()
    columns = COLUMNS
    marks = ", ".join(f":{column}" for column in columns)
    insert = text(f"INSERT INTO {table.name} ({', '.join(columns)}) VALUES ({marks})")
    for start in range(0, size, CHUNK):
        rows: list[dict[str, object]] = []
        for at in range(start, min(start + CHUNK, size)):
            moment = base + at * (29 * DAY // size)
            state = "failed" if at % 100 == 0 else "cancelled" if at % 100 == 1 else "succeeded"
            random = os.urandom(9).hex()
            stamp = f"{moment // 1000:012x}"
            values = (
                f"{stamp[:8]}-{stamp[8:]}-7{random[:3]}-8{random[3:6]}-{random[6:]}",
                "long",
                NAMES[at % len(NAMES)],
                f"user-{at % USERS}",
                state,
                QUEUE,
                5,
                args,
                '{"known":0.5}' if state == "succeeded" else None,
                "ValueError" if state == "failed" else None,
                "oops" if state == "failed" else None,
                1,
                5,
                moment,
                moment,
                moment + 1_000,
                moment + 9_000,
                "host:1234:0123456789ab",
                1,
                1.0,
            )
            rows.append(dict(zip(columns, values, strict=True)))
        with ledger.write() as connection:
            connection.execute(insert, rows)
    ledger.checkpoint()


def purge(tasks: Tasks, name: str, size: int) -> Rows:
    """Delete a tenth by age, in batches of 500, and give the room back."""
    ledger = tasks.ledger
    before = ledger.now() - 27 * DAY
    longest, deleted = 0.0, 0
    began = time.perf_counter()
    while True:
        at = time.perf_counter()
        count = ledger.purge(before)
        longest = max(longest, time.perf_counter() - at)
        deleted += count
        if not count:
            break
    rate = deleted / (time.perf_counter() - began)
    free = ledger.size().free_bytes
    steps: list[float] = []
    while ledger.dialect == "sqlite" and len(steps) < free / 1_048_576 - 1:
        steps.append(timed(ledger.checkpoint))
    rows = [(f"{name}: purge of {deleted:,}, longest batch of 500", f"{rate:,.0f}/s, {longest * 1e3:.0f} ms")]
    if steps:
        given = (free - ledger.size().free_bytes) / 1e6
        rows.append((f"{name}: room given back, longest step", f"{given:.0f} MB, {max(steps) * 1e3:.0f} ms"))
    return rows


def timed(work: Callable[[], object]) -> float:
    """Seconds it takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def quantiles(work: Callable[[], object]) -> str:
    """Milliseconds, median and 99th percentile of 200."""
    work()
    taken = sorted(timed(work) for _ in range(200))
    return f"{statistics.median(taken) * 1e3:.2f} / {taken[197] * 1e3:.2f} ms"
