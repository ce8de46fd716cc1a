"""OpenTelemetry spans of calls; imported only where tracing is switched on."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from sparkle.errors import MissingExtraError
from sparkle.llm.monitoring import semconv
from sparkle.llm.monitoring.trace_context import TraceContext

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.trace import Span

    from sparkle.llm.monitoring.record import CallRecord

_FAILED = frozenset({"upstream_error", "error", "client_closed"})
_MAX_EVENTS = 32


class Tracing:
    """Makes one CLIENT span per call, with GenAI attributes, a child of the caller's ``traceparent``."""

    def __init__(self, provider: TracerProvider | None = None) -> None:
        """Connect to the exporter that the standard ``OTEL_*`` variables describe, or use ``provider``.

        Raises:
            MissingExtraError: OpenTelemetry is not installed (extra ``otel``).
        """
        try:
            from opentelemetry import trace
        except ImportError:
            raise MissingExtraError("otel", "tracing") from None
        self._api = trace
        self._provider = provider or _provider_from_environment()
        self._tracer = self._provider.get_tracer("sparkle")

    def start(
        self, *, operation: str, model: str, request_id: str, parent: TraceContext | None, now: float
    ) -> Span:
        """Open the span of a call that began at ``now`` (Unix seconds)."""
        trace = self._api
        context: Any = None
        if parent is not None:
            remote = trace.SpanContext(
                int(parent.trace_id, 16),
                int(parent.span_id, 16),
                is_remote=True,
                trace_flags=trace.TraceFlags(int(parent.flags, 16)),
            )
            context = trace.set_span_in_context(trace.NonRecordingSpan(remote))
        return self._tracer.start_span(
            semconv.span_name(operation, model),
            context=context,
            kind=trace.SpanKind.CLIENT,
            attributes={
                semconv.OPERATION: operation,
                semconv.REQUEST_MODEL: model,
                semconv.REQUEST_ID: request_id,
            },
            start_time=_nanoseconds(now),
        )

    def context_of(self, span: Span) -> TraceContext:
        """The span's own place in the trace: what the upstream gets as its parent."""
        own = span.get_span_context()
        return TraceContext(f"{own.trace_id:032x}", f"{own.span_id:016x}", f"{own.trace_flags & 1:02x}")

    def finish(self, span: Span, record: CallRecord, *, now: float) -> None:
        """Set what is known of a finished call and close its span at ``now`` (Unix seconds)."""
        end = _nanoseconds(now)
        if span.is_recording():
            span.set_attributes({name: value for name, value in _attributes(record) if value is not None})
            findings = (record.input_findings + record.output_findings)[:_MAX_EVENTS]
            for f in findings:
                about = {
                    semconv.FINDING_RULE: f.rule,
                    semconv.FINDING_CATEGORY: f.category,
                    semconv.FINDING_LAYER: f.layer,
                    semconv.FINDING_MODE: f.mode.value,
                }
                span.add_event(semconv.FINDING_EVENT, about, timestamp=end)
            if record.outcome in _FAILED:
                span.set_status(self._api.StatusCode.ERROR)
        span.end(end)

    def close(self) -> None:
        """Send what waits and stop. May take as long as the exporter's timeout; call it in a thread."""
        self._provider.shutdown()


def _provider_from_environment() -> TracerProvider:
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError:
        raise MissingExtraError("otel", "tracing") from None
    # OTEL_SERVICE_NAME and OTEL_RESOURCE_ATTRIBUTES, read by the SDK, win over this name.
    resource = Resource({"service.name": "sparkle"}).merge(Resource.create())
    if str(resource.attributes.get("service.name", "")).startswith("unknown_service"):
        resource = resource.merge(Resource({"service.name": "sparkle"}))
    provider = TracerProvider(resource=resource)
    provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
    return provider


def _attributes(record: CallRecord) -> Iterator[tuple[str, Any]]:
    used, content = record.used, record.content or {}
    yield semconv.OUTCOME, record.outcome
    yield semconv.PROVIDER, record.upstream
    yield semconv.RESPONSE_ID, record.response_id
    yield semconv.RESPONSE_MODEL, record.response_model
    yield semconv.SERVER_ADDRESS, record.server_address
    yield semconv.ERROR_TYPE, record.error_type
    yield semconv.POLICY_HASH, record.policy[1]
    yield semconv.FINISH_REASONS, [record.finish_reason] if record.finish_reason else None
    yield semconv.INPUT_TOKENS, used.prompt_tokens if used else None
    yield semconv.OUTPUT_TOKENS, used.completion_tokens if used else None
    for name, part in ((semconv.INPUT_MESSAGES, "input"), (semconv.OUTPUT_MESSAGES, "output")):
        # json, not msgspec: a text may hold lone surrogates, which only JSON's own escapes can carry.
        yield name, json.dumps(content[part], default=str) if part in content else None


def _nanoseconds(seconds: float) -> int:
    return int(seconds * 1e9)
