"""The small parts of the ledger: states, ids, failures, secrets."""

from __future__ import annotations

import random
import re
import uuid
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.clock import ManualClock

from sparkle.errors_tasks import TaskStateError
from sparkle.masking_secrets import (
    SecretValue,
    find_secret,
    is_secret_name,
    kind_of_secret,
    mask_secrets,
    secret_table,
)
from sparkle.tasks.ids import TaskIds
from sparkle.tasks.queues import QUEUES, queue_for
from sparkle.tasks.record import ERROR_MESSAGE_CHARACTERS, Failure
from sparkle.tasks.states import (
    FINISHED,
    TRANSITIONS,
    UNFINISHED,
    TaskMode,
    TaskState,
    check_transition,
    may_become,
    sources,
)

# States ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("mode", "state"), [*product(TaskMode, TaskState)])
def test_every_state_has_its_ways_out(mode: TaskMode, state: TaskState) -> None:
    assert state not in TRANSITIONS[mode][state]
    assert (state in FINISHED) != (state in UNFINISHED)
    assert state.finished == (state in FINISHED)


def test_every_unfinished_long_task_can_end() -> None:
    for start in UNFINISHED:
        reached, todo = {start}, [start]
        while todo:
            new = TRANSITIONS[TaskMode.LONG][todo.pop()] - reached
            reached |= new
            todo += new
        assert {TaskState.SUCCEEDED, TaskState.FAILED, TaskState.CANCELLED} <= reached


def test_what_is_done_stays_done() -> None:
    assert all(not TRANSITIONS[mode][TaskState.SUCCEEDED] for mode in TaskMode)
    assert sources(TaskMode.LONG, TaskState.RUNNING) == (TaskState.QUEUED,)


def test_a_forbidden_way_is_a_typed_error() -> None:
    assert may_become(TaskMode.LONG, TaskState.QUEUED, TaskState.RUNNING)
    check_transition(TaskMode.LONG, TaskState.QUEUED, TaskState.RUNNING)
    with pytest.raises(TaskStateError, match="a long task that is succeeded cannot become running"):
        check_transition(TaskMode.LONG, TaskState.SUCCEEDED, TaskState.RUNNING)


@pytest.mark.parametrize("priority", range(10))
def test_every_priority_has_a_queue_of_sparkle(priority: int) -> None:
    assert queue_for(priority, is_async=False) in QUEUES
    assert queue_for(priority, is_async=True).endswith(".async")


# Ids ------------------------------------------------------------------------------------------------------------------


@given(steps=st.lists(st.floats(-5.0, 5.0), max_size=60), seed=st.integers())
def test_ids_rise_whatever_the_clock_does(steps: list[float], seed: int) -> None:
    clock = ManualClock()
    ids = TaskIds(clock, random.Random(seed).getrandbits)
    made = [ids()]
    for step in steps:
        clock.wall += step
        made.append(ids())
    assert made == sorted(set(made))
    for text in made:
        parsed = uuid.UUID(text)
        assert (parsed.version, parsed.variant, str(parsed)) == (7, uuid.RFC_4122, text)


def test_an_id_tells_its_millisecond() -> None:
    clock = ManualClock(1_795_000_000.123)
    assert uuid.UUID(TaskIds(clock)()).int >> 80 == 1_795_000_000_123


def test_a_full_counter_borrows_from_the_next_millisecond() -> None:
    ids = TaskIds(ManualClock(), lambda bits: (1 << bits) - 1)
    inside = ids
    made = [ids()]
    inside._counter = (1 << 42) - 2  # pyright: ignore[reportPrivateUsage]  four trillion calls later
    made += [ids(), ids(), ids()]
    assert made == sorted(set(made))


# Secrets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("value", secret_table().values, ids=lambda value: value.name)
def test_each_kind_of_secret_is_known_by_its_examples(value: SecretValue) -> None:
    entry = value
    secret, harmless = "".join(entry.matches), "".join(entry.spares)
    assert kind_of_secret(f"it is {secret}.") is not None
    assert kind_of_secret(f"it is {harmless}.") is None
    assert secret not in mask_secrets(f"failed with {secret}!")
    assert entry.hint in secret
    re.compile(entry.pattern)


@pytest.mark.parametrize(
    "name",
    ["password", "API_KEY", "api-key", "github_api_key", "Authorization", "client_secret", "access_token"],
)
def test_names_of_secrets_are_known(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["max_tokens", "prompt_tokens", "token_count", "secretary", "keyboard", "idempotency_key", "passage"],
)
def test_names_that_only_sound_like_secrets_are_not(name: str) -> None:
    assert not is_secret_name(name)


def test_the_place_of_a_secret_is_told_and_not_the_secret() -> None:
    key = "sk-" + "aB3dE6gH" * 4
    assert find_secret({"a": [1, {"note": f"use {key}"}]}, "kwargs") == (
        "kwargs.a[1].note",
        "looks like a secret (OpenAI-style key)",
    )
    assert find_secret({"password": ""}, "kwargs") is None
    assert find_secret({"token": 17, "text": "the token of my esteem"}, "kwargs") is None
    assert find_secret("postgresql://me:hunter2@host/db", "args") == (
        "args",
        "looks like a secret (address with a password)",
    )


def test_a_failure_is_masked_and_bounded() -> None:
    key = "sk-" + "aB3dE6gH" * 4
    failure = Failure.of(ValueError(f"bad key {key} at postgresql://me:hunter2@host/db \x00" + "x" * 100_000))
    assert failure.error_type == "ValueError"
    assert key not in failure.error_message
    assert "hunter2" not in failure.error_message
    assert "\x00" not in failure.error_message
    assert len(failure.error_message) <= ERROR_MESSAGE_CHARACTERS + 1


@given(st.text(max_size=300))
def test_masking_never_fails_and_adds_no_secret(text: str) -> None:
    assert kind_of_secret(mask_secrets(text)) is None
