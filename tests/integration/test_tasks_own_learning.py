"""The own tasks about learning and upkeep do their work."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from tests.support.ledgers import LedgerHouse
from tests.support.own_tasks import Workshop

from sparkle.errors import QuotaExceededError
from sparkle.tasks.own import cache, hooks, schema

pytest_plugins = ["tests.support.ledger_fixtures"]

DAY = 86_400_000_000


@pytest.fixture
def shop(house: LedgerHouse) -> Iterator[Workshop]:
    yield Workshop(house)
    hooks.connect_hooks()


def wrong(id: str, given: str, expected: str, subject: str = "math") -> dict[str, Any]:
    return {
        "id": id,
        "user_id": "alice",
        "subject": subject,
        "question": "?",
        "given": given,
        "expected": expected,
        "created_at": 1,
    }


# Learning -------------------------------------------------------------------------------------------------------------


def test_wrong_answers_are_sorted_into_kinds_and_counted(shop: Workshop) -> None:
    shop.insert(
        schema.wrong_answer,
        wrong("a", "", "5"),
        wrong("b", "x = -3.5", "3.5"),
        wrong("c", "3500", "3.5 km"),
        wrong("d", "3.14", "3.1416"),
        wrong("e", "12", "11"),
        wrong("f", "light, water", "light and water", "biology"),
        wrong("g", "mitosis", "meiosis", "biology"),
        wrong("h", "mitochondria", "mitosis", "biology"),
        wrong("i", "12", "13"),
    )
    value = shop.value("analyze_error_batch", user_id="alice")
    kinds = dict(shop.rows("SELECT id, kind FROM sparkle_wrong_answer"))
    assert kinds == {
        "a": "blank",
        "b": "sign",
        "c": "magnitude",
        "d": "rounding",
        "e": "arithmetic",
        "f": "incomplete",
        "g": "confusion",
        "h": "concept",
        "i": "arithmetic",
    }
    assert (value["analysed"], value["explained"]) == (9, 0)
    worst = value["patterns"][0]
    assert (worst["subject"], worst["kind"], worst["answers"]) == ("math", "arithmetic", 2)
    assert worst["share"] == round(2 / 6, 3)
    assert worst["advice_zh"]
    assert shop.value("analyze_error_batch", user_id="alice")["analysed"] == 0


def test_a_connected_model_explains_and_a_refusing_one_is_done_without(shop: Workshop) -> None:
    def answer(user_id: str, instructions: str, text: str) -> str:
        if "refuse" in text:
            raise QuotaExceededError
        return "Look at the sign."

    hooks.connect_hooks(complete=answer)
    shop.insert(schema.wrong_answer, wrong("a", "-1", "1"), wrong("b", "refuse", "x"))
    assert shop.value("analyze_error_batch", user_id="alice")["explained"] == 1
    told = dict(shop.rows("SELECT id, analysis FROM sparkle_wrong_answer"))
    assert told["a"] == "Look at the sign."
    assert told["b"].startswith("Review the concept")


def test_mastery_rises_with_right_answers_and_falls_with_wrong_ones(shop: Workshop) -> None:
    first = shop.value("update_mastery", user_id="alice", skill="limits", correct=True)
    # Corbett and Anderson by hand: 0.2 * 0.9 / (0.2 * 0.9 + 0.8 * 0.2), then 0.15 of the rest is learnt.
    assert first["known"] == pytest.approx(0.529412 + (1 - 0.529412) * 0.15, abs=1e-5)
    second = shop.value("update_mastery", user_id="alice", skill="limits", correct=False)
    assert second["known"] < first["known"]
    third = shop.value("update_mastery", user_id="alice", skill="limits", correct=[True] * 6)
    assert (third["answers"], third["correct"], third["mastered"]) == (8, 7, True)
    assert shop.rows("SELECT answers, correct FROM sparkle_mastery") == [(8, 7)]


def test_an_answer_counts_once_though_its_worker_was_cut_off(shop: Workshop) -> None:
    record = shop.schedule("update_mastery", user_id="alice", skill="limits", correct=True)
    late = shop.claim(record)
    shop.house.ledger.expire(owner=late.claim.record.lease_owner)
    done = shop.work(shop.claim(record))
    assert done.state == "succeeded"
    assert done.value["answers"] == 1
    from sparkle.tasks.worker.plain import PlainRunner
    from sparkle.tasks.worker.running import Reason

    outcome = PlainRunner(clock=shop.house.clock, max_result_bytes=10_000).run(late)
    assert outcome is not None
    assert outcome.reason is Reason.LOST
    assert shop.rows("SELECT answers FROM sparkle_mastery") == [(1,)]


@pytest.mark.parametrize("correct", ["yes", [], [1], None])
def test_an_answer_is_right_or_wrong(shop: Workshop, correct: Any) -> None:
    record = shop.run("update_mastery", user_id="alice", skill="limits", correct=correct)
    assert record.state == "failed"
    assert shop.rows("SELECT * FROM sparkle_mastery") == []


def test_an_older_state_that_arrives_late_changes_nothing(shop: Workshop) -> None:
    save = {"user_id": "alice", "scope": "course:1"}
    assert shop.value("save_learning_state", **save, version=2, state={"page": 9})["saved"]
    assert not shop.value("save_learning_state", **save, version=1, state={"page": 3})["saved"]
    assert not shop.value("save_learning_state", **save, version=2, state={"page": 4})["saved"]
    assert shop.rows("SELECT version, state FROM sparkle_learning_state") == [(2, '{"page":9}')]
    assert shop.value("save_learning_state", **save, version=3, state={"page": 10})["saved"]


# Upkeep ---------------------------------------------------------------------------------------------------------------


def test_a_call_counts_once_and_the_day_is_summed(shop: Workshop) -> None:
    call: dict[str, Any] = {
        "user_id": "alice",
        "model": "m",
        "prompt_tokens": 10,
        "completion_tokens": 5,
        "cost_nano_usd": 7,
    }
    assert shop.value("record_token_usage", **call, call_id="c1", at=DAY)["counted"]
    assert not shop.value("record_token_usage", **call, call_id="c1", at=DAY)["counted"]
    assert shop.value("record_token_usage", **call, at=DAY + 1)["counted"]
    assert shop.value("record_token_usage", **call, at=2 * DAY)["counted"]
    days = shop.rows(
        "SELECT day, calls, prompt_tokens, completion_tokens, cost_nano_usd FROM sparkle_token_usage_day ORDER BY day"
    )
    assert days == [("1970-01-02", 2, 20, 10, 14), ("1970-01-03", 1, 10, 5, 7)]
    call["prompt_tokens"] = -1
    record = shop.run("record_token_usage", **call)
    assert record.error_type == "InvalidRequestError"


def test_cache_entries_are_forgotten_by_key_tag_beginning_and_time(shop: Workshop) -> None:
    now = shop.house.ledger.now()
    with shop.house.ledger.write() as connection:
        for key in ("User:1", "user:1", "user:2", "graph:1", "graph:2", "old"):
            tags = ["graphs"] if key.startswith("graph") else []
            cache.put(connection, key, "{}", tags=tags, expires_at=now if key == "old" else None)
        cache.put(connection, "user:1", '{"n":1}', tags=["a", "b"], expires_at=now + DAY)
    with shop.house.ledger.read() as connection:
        assert cache.get(connection, "user:1", now) == '{"n":1}'
        assert cache.get(connection, "old", now) is None
    assert shop.value("invalidate_cache", tags=["graphs", "b"])["forgotten"] == 3
    assert shop.value("invalidate_cache", expired=True)["forgotten"] == 1
    assert shop.value("invalidate_cache", prefix="user:")["forgotten"] == 1
    assert shop.rows("SELECT key FROM sparkle_cache_entry") == [("User:1",)]
    assert shop.value("invalidate_cache", keys=["User:1", "none"])["forgotten"] == 1
    assert shop.rows("SELECT * FROM sparkle_cache_tag") == []
    assert shop.run("invalidate_cache").error_type == "InvalidRequestError"


def test_unconfirmed_actions_expire_and_are_forgotten_later(shop: Workshop) -> None:
    now = shop.house.ledger.now()
    row = {"user_id": "alice", "kind": "import", "payload": "{}", "created_at": 1}
    shop.insert(
        schema.pending_action,
        {**row, "id": "open", "state": "pending", "expires_at": now + DAY},
        {**row, "id": "over", "state": "pending", "expires_at": now - 1},
        {**row, "id": "done", "state": "done", "expires_at": now - 40 * DAY},
        {**row, "id": "kept", "state": "done", "expires_at": now - 20 * DAY},
    )
    value = shop.value("cleanup_pending_actions")
    assert value == {"expired": 1, "forgotten": 1, "more": False}
    assert dict(shop.rows("SELECT id, state FROM sparkle_pending_action")) == {
        "open": "pending",
        "over": "expired",
        "kept": "done",
    }
    assert shop.run("cleanup_pending_actions", keep_days=-1).error_type == "InvalidRequestError"


def test_the_health_check_tells_how_long_it_waited(shop: Workshop) -> None:
    record = shop.schedule("health_check")
    shop.house.clock.advance(0.25)
    value = shop.work(shop.claim(record)).value
    assert (value["ok"], value["waited_ms"]) == (True, 250.0)
    assert value["database"] == shop.house.ledger.dialect
