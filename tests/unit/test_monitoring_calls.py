"""A call is counted once, recorded without a word of what was said, and never stopped by being watched."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import pytest
from tests.support.monitoring import SECRET, Attempt, Desk, finding, whole_call

from sparkle.errors import QuotaExceededError, RateLimitError
from sparkle.llm.monitoring.audit_record import canonical_message
from sparkle.llm.policy import Policy
from sparkle.llm.policy_source import policy_hash
from sparkle.llm.verdict import Mode, Verdict


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_a_call_is_counted_in_every_metric_it_touches(desk: Desk) -> None:
    whole_call(desk)
    sample = desk.sample
    assert sample("sparkle_requests_total", operation="chat", model="gpt-4o", outcome="ok") == 1
    assert sample("sparkle_request_duration_seconds_sum", operation="chat") == pytest.approx(2.003)
    assert sample("sparkle_gateway_overhead_seconds_sum", operation="chat") == pytest.approx(0.003)
    assert sample("sparkle_gateway_overhead_seconds_bucket", operation="chat", le="0.002") == 0
    assert sample("sparkle_gateway_overhead_seconds_bucket", operation="chat", le="0.005") == 1
    assert sample("sparkle_time_to_first_token_seconds_sum", model="gpt-4o") == pytest.approx(0.5)
    assert sample("sparkle_time_to_first_token_seconds_count", model="gpt-4o") == 1
    assert sample("sparkle_tokens_total", model="gpt-4o", kind="prompt") == 100
    assert sample("sparkle_tokens_total", model="gpt-4o", kind="completion") == 50
    assert sample("sparkle_cost_usd_total", model="gpt-4o") == pytest.approx(0.0025)
    assert sample("sparkle_guard_seconds_sum", layer="input") == pytest.approx(0.0001)
    assert sample("sparkle_guard_seconds_sum", layer="quota") == pytest.approx(0.0002)
    assert sample("sparkle_guard_seconds_sum", layer="output") == pytest.approx(0.002)
    assert sample("sparkle_inflight_requests") == 0


def test_a_call_leaves_one_audit_line(desk: Desk) -> None:
    policy = Policy(name="school")
    desk.monitor.use_policy(policy)
    record = whole_call(desk)
    assert desk.line() == {
        "time": "2026-11-18T12:00:02.003Z",
        "request_id": "req_1",
        "trace_id": record.trace_id,
        "operation": "chat",
        "outcome": "ok",
        "status": 200,
        "user": "alice",
        "model": "gpt-4o",
        "seconds": {
            "total": 2.003, "input": 0.0001, "quota": 0.0002, "upstream": 2.0, "first_token": 0.5, "output": 0.002,
        },
        "policy": "school",
        "policy_hash": policy_hash(policy),
        "team": "maths",
        "key_id": "key1",
        "stream": True,
        "upstream": "openai",
        "finish_reason": "stop",
        "usage": {"prompt": 100, "completion": 50},
        "cost_nano": 2_500_000,
        "reservation": "res_1",
    }  # fmt: skip


def test_a_call_counts_as_running_until_it_ends(desk: Desk) -> None:
    record = desk.begin()
    assert desk.sample("sparkle_inflight_requests") == 1
    record.finish("ok", 200)
    assert desk.sample("sparkle_inflight_requests") == 0


def test_only_the_first_end_counts(desk: Desk) -> None:
    record = desk.begin()
    record.finish("input_blocked", 400)
    record.finish("ok", 200)
    assert desk.line()["outcome"] == "input_blocked"
    assert desk.sample("sparkle_inflight_requests") == 0
    assert record.finished


def test_an_upstream_that_never_returned_counts_until_the_end(desk: Desk) -> None:
    record = desk.begin()
    record.upstream_started()
    desk.clock.advance(60)
    record.finish("upstream_error", 504, error_type="upstream_timeout")
    assert desk.sample("sparkle_gateway_overhead_seconds_sum", operation="chat") == 0
    assert desk.line()["seconds"]["upstream"] == 60


def test_findings_are_counted_and_recorded_with_their_place(desk: Desk) -> None:
    record = desk.begin()
    record.input_checked(Verdict.of([finding(), finding(Mode.WATCH)]), 0.001)
    record.finish("input_blocked", 400, error_type="content_filter")
    count = desk.sample(
        "sparkle_guard_findings_total", layer="input", category="injection.override", mode="block"
    )
    assert count == 1
    line = desk.line()
    assert line["findings_total"] == 2
    assert line["findings"][0] == {
        "layer": "input",
        "rule": "injection.override.en",
        "category": "injection.override",
        "mode": "block",
        "severity": "high",
        "score": 0.9,
        "path": "messages[1].content",
        "start": 3,
        "end": 9,
    }


def test_a_blocked_message_can_be_recognised_but_not_read(desk: Desk) -> None:
    messages: list[Mapping[str, Any]] = [
        {"role": "system", "content": "harmless"},
        {"role": "user", "content": SECRET},
    ]
    record = desk.begin()
    record.input_checked(Verdict.of([finding()]), 0.001, messages=messages)
    record.finish("input_blocked", 400)
    assert desk.line()["input_hmac"] == {"messages[1]": desk.audit.digest(canonical_message(messages[1]))}


def test_a_finding_outside_the_messages_has_no_digest(desk: Desk) -> None:
    record = desk.begin()
    verdict = Verdict.of(
        [finding(path="tools[0].name"), finding(path="messages[9].content"), finding(path="")]
    )
    record.input_checked(verdict, 0.001, messages=[{"role": "user", "content": "x"}])
    record.finish("input_blocked", 400)
    assert "input_hmac" not in desk.line()


def test_nothing_that_was_said_is_left_anywhere(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    messages: list[Mapping[str, Any]] = [
        {"role": "user", "content": SECRET},
        {"role": "user", "content": SECRET},
    ]
    record = desk.begin()
    record.input_checked(
        Verdict.of([finding(path=f"messages[0].{SECRET} said so")]), 0.001, messages=messages
    )
    record.captured(input_messages=messages, output_messages=[SECRET])
    record.finish("upstream_error", 502, finish_reason=f"stop {SECRET}", error_type=f"{SECRET}!")
    desk.monitor.flush()
    left = desk.monitor.render_metrics()[0] + b"".join(file.read_bytes() for file in desk.folder.iterdir())
    assert b"req_1" in left
    assert f"{SECRET} said".encode() not in left
    assert f"stop {SECRET}".encode() not in left
    assert f"{SECRET}!".encode() not in left
    assert SECRET not in caplog.text


def test_a_refusal_names_its_limit(desk: Desk) -> None:
    record = desk.begin()
    details = {"scope": "user", "limit_name": "tokens_per_day", "limit": 100_000}
    record.refused(QuotaExceededError(details=details), 0.0001)
    record.finish("quota_exceeded", 429, error_type="insufficient_quota")
    assert desk.sample("sparkle_quota_refusals_total", limit="user.tokens_per_day") == 1
    assert desk.line()["limit"] == "user.tokens_per_day"


def test_a_refusal_without_details_is_counted_by_its_code(desk: Desk) -> None:
    record = desk.begin()
    record.refused(RateLimitError())
    record.finish("rate_limited", 429)
    assert desk.sample("sparkle_quota_refusals_total", limit="rate_limit_exceeded") == 1


def test_a_layer_that_failed_is_counted(desk: Desk) -> None:
    record = desk.begin()
    record.guard_failed("output", "closed")
    record.reserved(None, 0.001)
    record.finish("error", 500)
    assert desk.sample("sparkle_guard_errors_total", layer="output", failed="closed") == 1
    assert "reservation" not in desk.line()


def test_attempts_and_circuits_of_upstreams_are_shown(desk: Desk) -> None:
    desk.monitor.upstream_event(Attempt("openai", "timeout", 3.0))
    desk.monitor.upstream_event(Attempt("openai", "ok", 1.0))
    circuits: dict[str, Literal["closed", "half_open", "open"]] = {"openai": "open", "local": "closed"}
    desk.monitor.watch_circuits(lambda: circuits)
    assert desk.sample("sparkle_upstream_requests_total", upstream="openai", outcome="timeout") == 1
    assert desk.sample("sparkle_upstream_seconds_sum", upstream="openai") == 4
    assert desk.sample("sparkle_circuit_state", upstream="openai") == 2
    assert desk.sample("sparkle_circuit_state", upstream="local") == 0
    circuits["openai"] = "half_open"
    assert desk.sample("sparkle_circuit_state", upstream="openai") == 1


def test_the_policy_in_force_is_shown_and_reloads_are_counted(desk: Desk) -> None:
    one, two = Policy(name="one"), Policy(name="two")
    desk.monitor.use_policy(one, "aaaa")
    desk.monitor.use_policy(two, "bbbb")
    desk.monitor.policy_reloaded("loaded")
    desk.monitor.policy_reloaded("failed")
    assert desk.sample("sparkle_policy_info", name="one", hash="aaaa") == 0
    assert desk.sample("sparkle_policy_info", name="two", hash="bbbb") == 1
    assert desk.sample("sparkle_policy_reloads_total", result="failed") == 1


def test_counters_an_alert_needs_exist_before_they_grow(desk: Desk) -> None:
    assert desk.sample("sparkle_policy_reloads_total", result="failed") == 0
    assert desk.sample("sparkle_audit_dropped_total") == 0
    assert desk.sample("sparkle_monitor_errors_total") == 0


def test_a_call_keeps_the_policy_it_began_under(desk: Desk) -> None:
    desk.monitor.use_policy(Policy(name="one"), "aaaa")
    record = desk.begin()
    desk.monitor.use_policy(Policy(name="two"), "bbbb")
    record.finish("ok", 200)
    assert desk.line()["policy_hash"] == "aaaa"


async def test_counts_reach_the_files_that_workers_share_by_themselves(desk: Desk) -> None:
    desk.begin().finish("ok", 200)
    await desk.monitor.close()
    assert len(desk.lines()) == 1
