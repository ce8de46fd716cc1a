"""The caller's trace goes on upstream; spans carry the GenAI names and no content unless asked."""

from __future__ import annotations

import re
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from tests.support.clock import ManualClock

from sparkle.errors import MissingExtraError
from sparkle.llm.monitoring import CallRecord, LLMMonitor, Outcome
from sparkle.llm.monitoring.trace_context import new_trace, parse_traceparent
from sparkle.llm.monitoring.tracing import Tracing
from sparkle.llm.usage import Principal, Usage
from sparkle.llm.verdict import Finding, Mode, Severity, Verdict
from sparkle.settings import MonitoringSettings

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
HEADER = f"00-{TRACE}-{SPAN}-01"
VALID = re.compile(r"00-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-0[01]")
FOUND = Verdict.of(
    [
        Finding(
            "injection.a",
            "injection",
            Severity.HIGH,
            "input",
            0,
            4,
            0.9,
            Mode.WATCH,
            "why",
            "理由",
            "messages[0]",
        )
    ]
)


@pytest.mark.parametrize("header", [HEADER, f"00-{TRACE}-{SPAN}-00", f" {HEADER} "])
def test_a_valid_header_is_read(header: str) -> None:
    context = parse_traceparent(header)
    assert context is not None
    assert (context.trace_id, context.span_id) == (TRACE, SPAN)
    assert context.header == header.strip()


def test_a_later_version_is_read_as_far_as_we_know_it() -> None:
    context = parse_traceparent(f"01-{TRACE}-{SPAN}-03-more")
    assert context is not None
    assert context.header == f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "x",
        HEADER.upper(),
        HEADER + "-more",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"00-{TRACE}-{SPAN}-01\r\nx-evil: 1",
        "01-" + "a" * 1_000,
    ],
)
def test_an_invalid_header_is_as_none(header: str | None) -> None:
    assert parse_traceparent(header) is None


@given(st.text(max_size=80))
def test_whatever_comes_in_what_goes_out_is_valid(header: str) -> None:
    context = parse_traceparent(header) or new_trace()
    assert VALID.fullmatch(context.header)


def test_zero_entropy_still_makes_a_valid_header() -> None:
    assert VALID.fullmatch(new_trace(bytes).header)


class Calls:
    """A monitor whose spans stay in memory."""

    def __init__(self, *, capture: bool = False) -> None:
        self.exporter = InMemorySpanExporter()
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(self.exporter))
        self.clock = ManualClock()
        settings = MonitoringSettings(capture_content=capture)
        self.monitor = LLMMonitor(settings, None, clock=self.clock, tracing=Tracing(provider))

    def begin(self, traceparent: str | None = None) -> CallRecord:
        return self.monitor.begin(
            request_id="req_1",
            principal=Principal("alice"),
            model="gpt-4o",
            operation="chat",
            stream=False,
            traceparent=traceparent,
        )

    def span(self) -> ReadableSpan:
        (span,) = self.exporter.get_finished_spans()
        return span


def test_a_span_carries_the_genai_names() -> None:
    calls = Calls()
    record = calls.begin()
    record.input_checked(FOUND, 0.001)
    record.upstream_started()
    calls.clock.advance(2)
    record.upstream_finished(
        "openai", response_id="chatcmpl-1", response_model="gpt-4o-2024", server_address="api.openai.com"
    )
    record.usage(Usage(10, 20), 5)
    record.finish("ok", 200, "stop")
    span = calls.span()
    assert span.name == "chat gpt-4o"
    assert span.kind is SpanKind.CLIENT
    assert dict(span.attributes or {}) == {
        "gen_ai.operation.name": "chat",
        "gen_ai.request.model": "gpt-4o",
        "gen_ai.provider.name": "openai",
        "gen_ai.response.id": "chatcmpl-1",
        "gen_ai.response.model": "gpt-4o-2024",
        "gen_ai.response.finish_reasons": ("stop",),
        "gen_ai.usage.input_tokens": 10,
        "gen_ai.usage.output_tokens": 20,
        "server.address": "api.openai.com",
        "sparkle.request_id": "req_1",
        "sparkle.outcome": "ok",
        "sparkle.policy.hash": "",
    }
    assert span.status.status_code is StatusCode.UNSET
    assert span.end_time is not None
    assert span.start_time is not None
    assert span.end_time - span.start_time == 2_000_000_000
    (event,) = span.events
    assert event.attributes is not None
    assert event.attributes["sparkle.finding.rule"] == "injection.a"


def test_a_span_is_the_child_of_the_caller_and_the_parent_of_the_upstream() -> None:
    calls = Calls()
    record = calls.begin(HEADER)
    record.finish("ok", 200)
    span = calls.span()
    assert span.parent is not None
    assert f"{span.parent.span_id:016x}" == SPAN
    own = span.get_span_context()
    assert own is not None
    assert record.traceparent == f"00-{TRACE}-{own.span_id:016x}-01"
    assert record.trace_id == TRACE


def test_a_caller_that_does_not_record_is_followed() -> None:
    calls = Calls()
    record = calls.begin(f"00-{TRACE}-{SPAN}-00")
    record.finish("ok", 200)
    assert calls.exporter.get_finished_spans() == ()
    assert record.traceparent.endswith("-00")


@pytest.mark.parametrize(
    ("outcome", "failed"),
    [("upstream_error", True), ("error", True), ("input_blocked", False), ("ok", False)],
)
def test_a_failure_is_an_error_and_a_refusal_is_not(outcome: Outcome, failed: bool) -> None:
    calls = Calls()
    calls.begin().finish(outcome, 500, error_type="upstream_timeout" if failed else None)
    assert (calls.span().status.status_code is StatusCode.ERROR) is failed


def test_content_stays_out_of_spans() -> None:
    calls = Calls()
    record = calls.begin()
    assert not record.wants_content
    record.captured(input_messages=[{"role": "user", "content": "my secret"}])
    record.finish("ok", 200)
    assert "my secret" not in str(calls.span().to_json())


def test_content_goes_into_spans_where_it_was_asked_for() -> None:
    calls = Calls(capture=True)
    record = calls.begin()
    assert record.wants_content
    record.captured(input_messages=[{"role": "user", "content": "question \ud800"}])
    record.captured(output_messages=[{"role": "assistant", "content": "answer"}])
    record.finish("ok", 200)
    attributes = dict(calls.span().attributes or {})
    assert '"question' in str(attributes["gen_ai.input.messages"])
    assert '"answer"' in str(attributes["gen_ai.output.messages"])


def test_tracing_that_is_off_imports_nothing_and_passes_the_header_on() -> None:
    monitor = LLMMonitor(MonitoringSettings(), None, clock=ManualClock())
    record = monitor.begin(
        request_id="r",
        principal=Principal("a"),
        model="m",
        operation="chat",
        stream=False,
        traceparent=HEADER,
    )
    assert record.traceparent == HEADER
    assert record.span is None
    assert not record.wants_content


def test_tracing_without_the_extra_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry", None)
    with pytest.raises(MissingExtraError, match="otel"):
        LLMMonitor(MonitoringSettings(tracing=True), None, clock=ManualClock())


async def test_the_standard_variables_configure_the_exporter(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "tutor")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:9")
    monitor = LLMMonitor(MonitoringSettings(tracing=True), None, clock=ManualClock())
    record = monitor.begin(
        request_id="r", principal=Principal("a"), model="m", operation="chat", stream=False, traceparent=None
    )
    assert isinstance(record.span, ReadableSpan)
    assert record.span.resource.attributes["service.name"] == "tutor"
    await monitor.close()  # the span was never ended, so nothing has to be sent
