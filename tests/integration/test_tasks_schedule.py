"""``schedule_long_task``: one row, in the caller's transaction if wanted; no broker, no secret, no unknown name."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Engine, create_engine, text
from sqlalchemy.orm import Session
from tests.support.postgres import PostgresProcess

import sparkle
from sparkle import TaskCall, TaskState, schedule_long_task, schedule_long_task_async, schedule_long_tasks
from sparkle.errors import ConfigurationError
from sparkle.errors_tasks import ForeignSessionError, TaskArgumentsError, TaskNotFoundError, UnknownTaskError
from sparkle.settings import Settings, load_settings
from sparkle.tasks.doorbell import Bell, open_bell
from sparkle.tasks.ledger.engine import ledger_url
from sparkle.tasks.registry import TaskRegistry, long_task
from sparkle.tasks.tasks import Tasks
from sparkle.tasks.trace import traced

pytest_plugins = ["tests.support.ledger_fixtures"]

PAST = datetime(2020, 1, 1, tzinfo=UTC)


def settings_for(folder: Path, url: str = "") -> Settings:
    return load_settings(environ={}, overrides={"data_dir": str(folder), "tasks.database_url": url})


@pytest.fixture(params=["sqlite", "postgresql"])
def database(request: pytest.FixtureRequest) -> str:
    """URL of the ledger's database; empty: SQLite in the data folder."""
    return "" if request.param == "sqlite" else request.getfixturevalue("postgres_url")


@pytest.fixture
def tasks(tmp_path: Path, database: str) -> Iterator[Tasks]:
    """What ``schedule_long_task`` of this process writes to."""
    yield sparkle.configure_tasks(settings_for(tmp_path, database))
    sparkle.close_tasks()


@pytest.fixture
def bell(tasks: Tasks) -> Iterator[Bell]:
    """A relay's ear."""
    opened = open_bell(tasks.ledger, "relay-1")
    opened.wait(0.0)  # listens from here on
    yield opened
    opened.close()


@pytest.fixture
def engine(tasks: Tasks) -> Iterator[Engine]:
    """The application's own engine on the ledger's database."""
    engine = create_engine(tasks.ledger.engine.url)
    with engine.begin() as connection:
        connection.execute(text("CREATE TABLE orders (id INTEGER PRIMARY KEY)"))
    yield engine
    engine.dispose()


def is_there(tasks: Tasks, id: str) -> bool:
    try:
        tasks.ledger.get(id)
    except TaskNotFoundError:
        return False
    return True


# One task -------------------------------------------------------------------------------------------------------------


def test_a_task_is_in_the_ledger_when_the_call_returns(tasks: Tasks) -> None:
    record = schedule_long_task(
        "update_mastery", kwargs={"skill": "limits", "correct": True}, user_id="alice"
    )
    assert tasks.ledger.get(record.id) == record
    assert (record.state, record.user_id, record.queue) == (
        TaskState.WAITING,
        "alice",
        "sparkle.default.sync",
    )
    assert record.arguments == ([], {"skill": "limits", "correct": True})
    assert (record.priority, record.max_attempts) == (6, 5)


def test_the_call_needs_no_broker_and_no_configuration_but_the_environment(tmp_path: Path) -> None:
    code = (
        "import sparkle; r = sparkle.schedule_long_task('health_check'); print(r.state, r.queue);"
        "sparkle.close_tasks()"
    )
    environ = {
        **os.environ,
        "SPARKLE_DATA_DIR": str(tmp_path),
        "SPARKLE_TASKS__BROKER_URL": "redis://127.0.0.1:1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environ, check=True
    )
    assert done.stdout.split() == ["waiting", "sparkle.high.sync"]


def test_large_numbers_come_back_as_they_were(tasks: Tasks) -> None:
    record = schedule_long_task("health_check", [2**200, -(2**63), 0.1])
    assert tasks.ledger.get(record.id).arguments == ([2**200, -(2**63), 0.1], {})


def test_the_callers_options_go_before_the_tasks_own(tasks: Tasks) -> None:
    record = schedule_long_task("health_check", priority=0, max_attempts=7, queue="mine", trace="00-a-b-01")
    assert (record.priority, record.max_attempts, record.queue, record.trace) == (0, 7, "mine", "00-a-b-01")


def test_the_trace_of_the_caller_goes_along(tasks: Tasks) -> None:
    with traced("00-aaaa-bbbb-01"):
        assert schedule_long_task("health_check").trace == "00-aaaa-bbbb-01"
    assert schedule_long_task("health_check").trace is None


def test_a_task_may_wait_for_its_time(tasks: Tasks) -> None:
    now = tasks.ledger.now()
    assert schedule_long_task("health_check", delay=60).due_at >= now + 60_000_000
    assert schedule_long_task("health_check", delay=timedelta(hours=1)).due_at >= now + 3_600_000_000
    later = datetime.now(UTC) + timedelta(days=1)
    assert schedule_long_task("health_check", at=later).due == later
    # What should have been long ago does not jump the queue.
    assert schedule_long_task("health_check", at=PAST).due_at >= now


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"priority": 10}, "priority must be 0 to 9"),
        ({"max_attempts": 0}, "max_attempts must be"),
        ({"delay": -1}, "must not be negative"),
        ({"delay": float("nan")}, "must not be negative"),
        ({"delay": 1e12}, "ten years"),
        ({"delay": 1, "at": PAST}, "not both"),
        ({"at": PAST.replace(tzinfo=None)}, "time zone"),
        ({"user_id": "x" * 201}, "user_id must be a text"),
        ({"user_id": "a\x00b"}, "printable"),
        ({"idempotency_key": ""}, "must not be empty"),
        ({"unique": ""}, "unique must be"),
        ({"args": [{1, 2}]}, r"args\[0\] is of type set"),
        ({"kwargs": {"when": PAST}}, "kwargs.when is of type datetime"),
        ({"kwargs": {"x": float("inf")}}, "kwargs.x is inf"),
        ({"kwargs": {"x": {1: 2}}}, "keys must be texts"),
        ({"args": [10**5_000]}, "cannot be written as JSON"),
        ({"args": "abc"}, "args must be a list"),
        ({"args": ["\ud800"]}, "cannot be written as JSON"),
        ({"args": ["复习" * 50_000]}, "SPARKLE_TASKS__MAX_ARGS_BYTES"),
        ({"kwargs": {"password": "hunter2"}}, "kwargs.password has the name of a secret"),
        ({"kwargs": {"headers": {"Authorization": "x"}}}, "headers.Authorization has the name"),
        ({"args": [["sk-" + "a1B2" * 8]]}, r"args\[0\]\[0\] looks like a secret \(OpenAI-style key\)"),
    ],
)
def test_what_cannot_be_kept_is_refused_and_the_place_is_named(
    tasks: Tasks, options: dict[str, Any], says: str
) -> None:
    with pytest.raises(TaskArgumentsError, match=says) as caught:
        schedule_long_task("health_check", **options)
    assert "hunter2" not in str(caught.value)
    assert "a1B2" not in str(caught.value)
    assert tasks.ledger.find().records == ()


def test_a_misspelt_name_is_refused_and_the_right_one_named(tasks: Tasks) -> None:
    with pytest.raises(UnknownTaskError, match='did you mean "update_mastery"'):
        schedule_long_task("update_masteri")


def test_a_task_of_another_code_base_needs_its_queue(tasks: Tasks) -> None:
    record = schedule_long_task("their_task", queue="theirs")
    assert (record.queue, record.max_attempts, record.priority) == ("theirs", 5, 5)


def test_ones_own_task_is_known_by_its_name(tasks: Tasks) -> None:
    mine = TaskRegistry()

    @long_task("wait_for_it", into=mine, priority=8, max_attempts=2, unique=True)
    async def wait_for_it(seconds: float) -> None: ...

    assert wait_for_it.is_async
    room = Tasks(tasks.ledger, settings_for(Path()).tasks, known=mine)
    first, again = (room.schedule([TaskCall("wait_for_it", (1,))])[0] for _ in range(2))
    assert (first.queue, first.max_attempts) == ("sparkle.high.async", 2)
    assert again.id == first.id
    assert room.schedule([TaskCall("wait_for_it", (2,))])[0].id != first.id
    assert room.schedule([TaskCall("wait_for_it", (1,), unique=False)])[0].id != first.id


def test_unique_by_ones_own_words(tasks: Tasks) -> None:
    one = schedule_long_task("health_check", unique="nightly")
    assert schedule_long_task("health_check", unique="nightly").id == one.id
    assert schedule_long_task("health_check", unique="daily").id != one.id


def test_fifty_callers_with_one_key_get_one_task(tasks: Tasks) -> None:
    together = threading.Barrier(50)

    def call(_: int) -> str:
        together.wait()
        return schedule_long_task("health_check", user_id="alice", idempotency_key="k").id

    with ThreadPoolExecutor(50) as pool:
        assert len(set(pool.map(call, range(50)))) == 1
    assert len(tasks.ledger.find().records) == 1


async def test_fifty_coroutines_with_one_key_get_one_task(tasks: Tasks) -> None:
    records = await asyncio.gather(
        *(schedule_long_task_async("health_check", idempotency_key="k") for _ in range(50))
    )
    assert len({record.id for record in records}) == 1


def test_a_batch_is_scheduled_in_its_order_or_not_at_all(tasks: Tasks) -> None:
    records = schedule_long_tasks(TaskCall("health_check", priority=at) for at in range(10))
    assert [record.priority for record in records] == list(range(10))
    with pytest.raises(UnknownTaskError):
        schedule_long_tasks([TaskCall("health_check"), TaskCall("no_such")])
    assert len(tasks.ledger.find().records) == 10
    assert schedule_long_tasks([]) == []


# The caller's transaction ---------------------------------------------------------------------------------------------


def test_a_session_that_commits_leaves_task_and_order(tasks: Tasks, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.execute(text("INSERT INTO orders VALUES (1)"))
        record = schedule_long_task("health_check", session=session)
    assert is_there(tasks, record.id)


def test_a_session_that_rolls_back_leaves_neither(tasks: Tasks, engine: Engine) -> None:
    with Session(engine) as session:
        session.execute(text("INSERT INTO orders VALUES (1)"))
        record = schedule_long_task("health_check", idempotency_key="k", session=session)
        session.rollback()
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar_one() == 0
        assert not is_there(tasks, record.id)
        other = schedule_long_task("health_check", idempotency_key="k", session=connection)
        connection.rollback()
    assert not is_there(tasks, other.id)


def test_a_refused_task_leaves_the_callers_transaction_alone(tasks: Tasks, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        session.execute(text("INSERT INTO orders VALUES (1)"))
        with pytest.raises(TaskArgumentsError):
            schedule_long_task("health_check", priority=99, session=session)
    with engine.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM orders")).scalar_one() == 1


async def test_async_sessions_and_connections_do_the_same(tasks: Tasks, engine: Engine) -> None:
    pytest.importorskip("greenlet", reason="SQLAlchemy's asyncio needs it")
    from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine

    url = tasks.ledger.engine.url
    url = url.set(drivername="sqlite+aiosqlite" if tasks.ledger.dialect == "sqlite" else "postgresql+psycopg")
    own = create_async_engine(url)
    async with AsyncSession(own) as session:
        kept = await schedule_long_task_async("health_check", session=session)
        await session.commit()
        lost = await schedule_long_task_async("health_check", session=session)
        await session.rollback()
    async with own.connect() as connection:
        also = await schedule_long_task_async("health_check", session=connection)
        await connection.commit()
    with pytest.raises(ConfigurationError, match="schedule_long_task_async"):
        schedule_long_task("health_check", session=AsyncSession(own))  # pyright: ignore[reportArgumentType]  that is the test
    await own.dispose()
    assert [is_there(tasks, record.id) for record in (kept, lost, also)] == [True, False, True]


async def test_a_plain_session_can_be_used_from_async_code(tasks: Tasks, engine: Engine) -> None:
    with Session(engine) as session, session.begin():
        record = await schedule_long_task_async("health_check", session=session)
    assert is_there(tasks, record.id)


async def test_what_is_no_session_is_refused(tasks: Tasks) -> None:
    with pytest.raises(ConfigurationError, match="session is a str"):
        schedule_long_task("health_check", session="no")  # pyright: ignore[reportArgumentType]  that is the test
    with pytest.raises((ConfigurationError, ImportError)):
        await schedule_long_task_async("health_check", session="no")  # pyright: ignore[reportArgumentType]  that is the test


def test_a_session_of_another_database_is_refused_and_stays_usable(
    tasks: Tasks, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    if tasks.ledger.dialect == "sqlite":
        url: str = f"sqlite:///{tmp_path}/other.db"
    else:
        server: PostgresProcess = request.getfixturevalue("task_postgres")
        url = ledger_url(server.database()).render_as_string(hide_password=False)
    other = create_engine(url)
    with Session(other) as session:
        session.execute(text("CREATE TABLE orders (id INTEGER)"))
        with pytest.raises(ForeignSessionError):
            schedule_long_task("health_check", session=session)
        session.execute(text("INSERT INTO orders VALUES (1)"))
        session.commit()
    other.dispose()


def test_a_ledger_that_only_looks_like_this_one_is_another_one(tasks: Tasks, tmp_path: Path) -> None:
    another = Tasks.open(settings_for(tmp_path / "another"))
    with Session(another.ledger.engine) as session, pytest.raises(ForeignSessionError):
        schedule_long_task("health_check", session=session)
    another.close()


# The doorbell ---------------------------------------------------------------------------------------------------------


def test_the_relay_hears_of_a_new_task(tasks: Tasks, bell: Bell) -> None:
    schedule_long_task("health_check")
    assert bell.wait(20.0)
    assert not bell.wait(0.0)


def test_the_relay_hears_of_a_session_when_it_commits(tasks: Tasks, bell: Bell, engine: Engine) -> None:
    with Session(engine) as session:
        for _ in range(3):
            schedule_long_task("health_check", session=session)
            assert not bell.wait(0.0)
        session.commit()
        assert bell.wait(20.0)
        bell.wait(0.0)
        schedule_long_task("health_check", session=session)
        session.rollback()
    assert not bell.wait(0.0)
    with engine.begin() as connection:
        schedule_long_task("health_check", session=connection)
    assert bell.wait(20.0)


def test_every_relay_of_a_machine_hears_and_a_dead_one_does_no_harm(tmp_path: Path) -> None:
    with Tasks.open(settings_for(tmp_path)) as tasks:
        ears = [open_bell(tasks.ledger, f"relay-{at}") for at in range(2)]
        folder = tmp_path / "tasks.db.bells"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as dead:
            dead.bind(str(folder / "dead"))
        tasks.schedule([TaskCall("health_check")])
        assert [ear.wait(20.0) for ear in ears] == [True, True]
        assert len(list(folder.iterdir())) == 2
        for ear in ears:
            ear.close()
        tasks.schedule([TaskCall("health_check")])


def test_a_bell_that_nobody_answers_never_blocks(tmp_path: Path) -> None:
    with Tasks.open(settings_for(tmp_path)) as tasks:
        ear = open_bell(tasks.ledger, "busy")
        for _ in range(2_000):
            tasks._ring()  # pyright: ignore[reportPrivateUsage]  more often than tasks can be written
        assert ear.wait(0.0)
        assert not ear.wait(0.0)
        ear.close()


def test_a_long_path_rings_too(tmp_path: Path) -> None:
    with Tasks.open(settings_for(tmp_path / ("x" * 120))) as tasks:
        ear = open_bell(tasks.ledger, "relay")
        tasks.schedule([TaskCall("health_check")])
        assert ear.wait(20.0)
        ear.close()
