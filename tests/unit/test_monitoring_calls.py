"""A call is counted once, recorded without a word of what was said, and never stopped by being watched."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.support.clock import ManualClock

from sparkle.errors import AuditUnavailableError, QuotaExceededError, RateLimitError
from sparkle.llm.monitoring import AuditLog, CallRecord, LLMMonitor
from sparkle.llm.monitoring.audit_record import canonical_message
from sparkle.llm.monitoring.metrics import MAX_MODELS, ModelLabels
from sparkle.llm.policy import MonitoringPolicy, Policy
from sparkle.llm.policy_source import policy_hash
from sparkle.llm.usage import Principal, Usage
from sparkle.llm.verdict import ALLOW, Finding, Mode, Severity, Verdict
from sparkle.series import Exposition
from sparkle.settings import MonitoringSettings

SECRET = "the-patient-has-a-secret"


@dataclass(frozen=True)
class Held:
    id: str = "res_1"


@dataclass(frozen=True)
class Attempt:
    upstream: str
    outcome: str
    seconds: float


def finding(mode: Mode = Mode.BLOCK, path: str = "messages[1].content") -> Finding:
    return Finding(
        "injection.override.en",
        "injection.override",
        Severity.HIGH,
        "input",
        3,
        9,
        0.9,
        mode,
        "why",
        "理由",
        path,
    )


class Desk:
    """A monitor with its clock and audit folder."""

    def __init__(self, tmp_path: Path) -> None:
        self.clock = ManualClock(1_795_003_200.0)
        self.folder = tmp_path / "audit"
        self.audit = AuditLog(self.folder, clock=self.clock)
        self.monitor = LLMMonitor(MonitoringSettings(), self.audit, clock=self.clock)
        self.monitor.know_models(["gpt-4o"])

    def begin(self, **changes: Any) -> CallRecord:
        call: dict[str, Any] = {
            "request_id": "req_1",
            "principal": Principal("alice", "maths", "key1"),
            "model": "gpt-4o",
            "operation": "chat",
            "stream": False,
            "traceparent": None,
        }
        return self.monitor.begin(**{**call, **changes})

    def sample(self, name: str, /, **labels: str) -> float | None:
        text = self.monitor.render_metrics()[0].decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    def line(self) -> dict[str, Any]:
        (line,) = self.lines()
        return line

    def lines(self) -> list[dict[str, Any]]:
        self.monitor.flush()
        return [json.loads(x) for file in self.folder.glob("*.jsonl") for x in file.read_bytes().splitlines()]


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def whole_call(desk: Desk) -> CallRecord:
    record = desk.begin(stream=True)
    record.input_checked(ALLOW, 0.0001)
    record.reserved(Held(), 0.0002)
    record.upstream_started()
    desk.clock.advance(0.5)
    record.first_token()
    desk.clock.advance(1.5)
    record.first_token()
    record.upstream_finished("openai")
    desk.clock.advance(0.003)
    record.output_checked(ALLOW, 0.002)
    record.usage(Usage(100, 50), 2_500_000)
    record.finish("ok", 200, "stop")
    return record


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


def test_an_arbitrary_model_name_makes_no_series(desk: Desk) -> None:
    for i in range(300):
        desk.begin(model=f"invented-{i}").finish("invalid", 404)
    text = desk.monitor.render_metrics()[0].decode()
    assert "invented" not in text
    assert desk.sample("sparkle_requests_total", operation="chat", model="other", outcome="invalid") == 300


def test_model_labels_are_bounded_and_plain() -> None:
    labels = ModelLabels()
    labels.know(["a b", "x" * 200, "", 'evil"}', "org/model-1.5:latest"])
    labels.know(f"m{i}" for i in range(500))
    assert labels("org/model-1.5:latest") == "org/model-1.5:latest"
    assert [labels(name) for name in ("a b", "x" * 200, "", 'evil"}', "m499")] == ["other"] * 5
    assert labels(f"m{MAX_MODELS - 2}") == f"m{MAX_MODELS - 2}"


def test_a_metric_has_no_more_series_than_it_may() -> None:
    exposition = Exposition()
    family = exposition.counter("sparkle_test_total", "Test.", ("a",), limit=3)
    for i in range(10):
        family(str(i)).inc()
    text = exposition.render()[0].decode()
    assert 'sparkle_test_total{a="other"} 7.0' in text


@given(st.lists(st.floats(0, 1e4), max_size=30))
def test_a_histogram_says_what_was_observed(values: list[float]) -> None:
    exposition = Exposition()
    bounds = (0.1, 1.0, 10.0)
    histogram = exposition.histogram("sparkle_test_seconds", "Test.", bounds)()
    for i, value in enumerate(values):
        histogram.observe(value)
        if i % 7 == 0:
            exposition.flush()
    text = exposition.render()[0].decode()
    for bound in bounds:
        expected = sum(value <= bound for value in values)
        assert f'sparkle_test_seconds_bucket{{le="{bound}"}} {float(expected)}' in text
    assert f"sparkle_test_seconds_count {float(len(values))}" in text


def test_what_a_parent_counted_before_a_fork_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    exposition = Exposition()
    counter = exposition.counter("sparkle_test_total", "Test.")()
    histogram = exposition.histogram("sparkle_test_seconds", "Test.", (1.0,))()
    gauge = exposition.gauge("sparkle_level", "Test.", over_workers="livesum")()
    gauge.value = 3
    counter.inc(5)
    histogram.observe(0.5)
    monkeypatch.setattr("sparkle.series.os.getpid", lambda: -1)
    shown = exposition.render()[0].decode()
    assert "sparkle_test_total 0.0" in shown
    assert "sparkle_test_seconds_count 0.0" in shown
    assert "sparkle_level 3.0" in shown


@pytest.mark.parametrize("user", ["学生", "a\ud800", "x" * 10_000, "a\nb", ""])
def test_any_user_name_fits_a_line(desk: Desk, user: str) -> None:
    desk.begin(principal=Principal(user)).finish("ok", 200)
    assert len(desk.line()["user"]) <= 256


def test_a_surrogate_in_a_field_of_ours_still_makes_a_line(desk: Desk) -> None:
    desk.begin(principal=Principal("a", team="\ud800")).finish("ok", 200)
    assert desk.line()["user"] == "a"


def test_a_record_that_cannot_be_made_is_counted_not_raised(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    record = desk.begin()
    record.used = "not a usage"  # type: ignore[assignment]  what a defect elsewhere could leave
    record.finish("ok", 200)
    assert desk.sample("sparkle_monitor_errors_total") == 2  # the line and the counts
    assert "AttributeError" in caplog.text
    assert desk.sample("sparkle_inflight_requests") == 0


def blocked_folder(desk: Desk) -> None:
    desk.folder.parent.mkdir(exist_ok=True)
    desk.folder.write_text("a file where the folder should be")


def test_without_an_audit_file_calls_go_on_and_the_loss_is_counted(desk: Desk) -> None:
    blocked_folder(desk)
    desk.begin().finish("ok", 200)
    desk.begin().finish("ok", 200)
    assert desk.sample("sparkle_audit_write_errors_total") == 1
    desk.audit.close()
    assert desk.sample("sparkle_audit_dropped_total") == 2


def test_a_policy_that_demands_records_refuses_calls_until_they_can_be_written(desk: Desk) -> None:
    desk.monitor.use_policy(Policy(monitoring=MonitoringPolicy(on_error="closed")))
    blocked_folder(desk)
    desk.begin().finish("ok", 200)
    with pytest.raises(AuditUnavailableError):
        desk.begin()
    with pytest.raises(AuditUnavailableError):
        desk.monitor.ready()
    desk.folder.unlink()
    desk.clock.advance(1)
    desk.monitor.flush()
    desk.begin().finish("ok", 200)
    assert len(desk.lines()) == 2


async def test_counts_reach_the_files_that_workers_share_by_themselves(desk: Desk) -> None:
    desk.begin().finish("ok", 200)
    await desk.monitor.close()
    assert len(desk.lines()) == 1


def test_no_metric_is_named_against_the_conventions(desk: Desk) -> None:
    whole_call(desk)
    forbidden = {"user", "team", "key", "prompt", "request_id", "task"}
    for family in text_string_to_metric_families(desk.monitor.render_metrics()[0].decode()):
        assert family.name.startswith("sparkle_")
        assert family.documentation.endswith(".") or ":" in family.documentation
        assert not any(set(sample.labels) & forbidden for sample in family.samples)
