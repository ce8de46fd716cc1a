"""What may be a long task, how long it waits after a failure, and what it may ask while it runs."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle.errors import ConfigurationError, NoCurrentTaskError, TaskCancelledError, TaskError
from sparkle.tasks.context import TaskContext, current_task, running
from sparkle.tasks.record import TaskRecord
from sparkle.tasks.registry import TaskRegistry, load_task_modules, long_task
from sparkle.tasks.retry import NO_RETRY, RetryPolicy
from sparkle.tasks.states import TaskMode, TaskState


def test_a_long_task_is_still_its_function() -> None:
    known = TaskRegistry()

    @long_task("double", priority=7, into=known)
    def double(number: int) -> int:
        return 2 * number

    @long_task("later", into=known)
    async def later() -> None: ...

    assert double(4) == 8
    assert [task.name for task in known] == ["double", "later"]
    assert (double.is_async, later.is_async) == (False, True)
    assert known.get("double") is double
    assert known.get("triple") is None


def test_two_functions_cannot_share_a_name_but_one_may_be_loaded_twice() -> None:
    known = TaskRegistry()

    def make(word: str) -> Any:
        def function() -> str:
            return word

        return function

    long_task("same", into=known)(make("a"))
    newest = long_task("same", into=known)(make("b"))
    assert known.get("same") is newest
    with pytest.raises(ConfigurationError, match="give one of them another name"):
        long_task("same", into=known)(lambda: "c")


@pytest.mark.parametrize(
    "wrong", [{"name": ""}, {"max_attempts": 0}, {"priority": 10}, {"timeout": 0.0}, {"hard_timeout": -1.0}]
)
def test_limits_out_of_range_are_refused_where_they_are_written(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=r"must|has 1"):
        long_task(**dict[str, Any]({"name": "x", "into": TaskRegistry(), **wrong}))


def test_a_module_that_cannot_be_imported_is_named_with_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    (tmp_path / "sparkle_broken_tasks.py").write_text("import sparkle_is_not_there\n")
    with pytest.raises(ConfigurationError, match=r"SPARKLE_TASKS__MODULES.*sparkle_is_not_there"):
        load_task_modules(["sparkle_broken_tasks"])
    sys.modules.pop("sparkle_broken_tasks", None)


@given(st.integers(1, 10_000), st.floats(0, 100), st.floats(0, 1000), st.floats(1, 10), st.integers())
def test_waits_stay_between_zero_and_a_ceiling_that_grows_to_its_limit(
    attempt: int, base: float, most: float, factor: float, seed: int
) -> None:
    policy = RetryPolicy(base_seconds=base, max_seconds=most, factor=factor)
    ceiling = policy.ceiling(attempt)
    assert 0 <= ceiling <= most
    assert ceiling <= policy.ceiling(attempt + 1)
    assert 0 <= policy.wait_seconds(attempt, random.Random(seed)) <= ceiling


def test_jitter_uses_the_whole_interval_and_can_be_switched_off() -> None:
    policy = RetryPolicy(base_seconds=10)
    waits = [policy.wait_seconds(1, random.Random(seed)) for seed in range(200)]
    assert min(waits) < 1
    assert max(waits) > 9
    assert RetryPolicy(base_seconds=3, jitter=False).wait_seconds(2, random.Random(0)) == 6


def test_some_errors_cannot_be_mended_by_trying_again() -> None:
    policy = RetryPolicy(give_up_on=frozenset({"LookupError"}))
    assert policy.gives_up(KeyError("k"))
    assert not policy.gives_up(ValueError("v"))
    assert NO_RETRY.gives_up(ValueError("v"))


class Runtime:
    """A worker that records what it is told."""

    def __init__(self, cancelled: bool = False) -> None:
        self.said: list[tuple[float, str | None]] = []
        self.cancelled = cancelled

    def open_transaction(self) -> Any:
        return object()

    def open_reading(self) -> Any:
        return object()

    def note_progress(self, progress: float, note: str | None) -> None:
        self.said.append((progress, note))

    def cancel_requested(self) -> bool:
        return self.cancelled


RECORD = TaskRecord(
    id="t1", mode=TaskMode.LONG, name="n", state=TaskState.RUNNING, attempt=2, created_at=0, due_at=0
)


def test_the_current_task_is_known_only_while_it_runs() -> None:
    with pytest.raises(NoCurrentTaskError):
        current_task()
    with running(TaskContext(RECORD, Runtime(), is_async=False)):
        assert (current_task().id, current_task().idempotency_token, current_task().attempt) == (
            "t1",
            "t1",
            2,
        )
        assert current_task().user_id == ""
    with pytest.raises(NoCurrentTaskError):
        current_task()


def test_progress_is_clipped_and_its_note_bounded() -> None:
    runtime = Runtime()
    context = TaskContext(RECORD, runtime, is_async=False)
    context.report_progress(1.5, "x" * 500)
    context.report_progress(-1)
    assert runtime.said == [(1.0, "x" * 200), (0.0, None)]


def test_one_transaction_serves_a_plain_task_and_an_async_one_is_told_its_way() -> None:
    plain = TaskContext(RECORD, Runtime(), is_async=False)
    assert not plain.has_effects
    assert plain.connection() is plain.connection()
    assert plain.has_effects
    with pytest.raises(TaskError, match="on_completion"):
        TaskContext(RECORD, Runtime(), is_async=True).connection()


def test_a_loop_can_ask_whether_it_was_cancelled() -> None:
    TaskContext(RECORD, Runtime(), is_async=False).check_cancelled()
    with pytest.raises(TaskCancelledError):
        TaskContext(RECORD, Runtime(cancelled=True), is_async=False).check_cancelled()
