"""Layer 5: what every call leaves behind: counts, a span, an audit record."""

from __future__ import annotations

import asyncio
import logging
import os
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sparkle.clock import Clock
from sparkle.errors import AuditUnavailableError
from sparkle.llm.monitoring.audit import AuditLog
from sparkle.llm.monitoring.audit_record import (
    audit_record_of,
    canonical_message,
    encode_record,
)
from sparkle.llm.monitoring.metrics import Metrics, ModelLabels
from sparkle.llm.monitoring.record import CallRecord, Operation
from sparkle.llm.monitoring.trace_context import Entropy, new_trace, parse_traceparent
from sparkle.llm.policy import Policy
from sparkle.llm.policy_source import policy_hash as hash_of
from sparkle.llm.usage import Principal
from sparkle.llm.verdict import Finding
from sparkle.settings import MonitoringSettings

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from sparkle.llm.monitoring.tracing import Tracing

log = logging.getLogger("sparkle.monitoring")

FLUSH_SECONDS = 0.1
"""How far another worker's scrape may lag behind what this worker counted."""

CircuitState = Literal["closed", "half_open", "open"]
CIRCUIT_STATES: dict[CircuitState, float] = {"closed": 0.0, "half_open": 1.0, "open": 2.0}

_MESSAGE = re.compile(r"messages\[(\d+)\]")


class UpstreamEventLike(Protocol):
    """One attempt at an upstream, as the provider layer reports it."""

    @property
    def upstream(self) -> str:
        """Its name in the settings."""
        ...

    @property
    def outcome(self) -> str:
        """``ok`` or the kind of failure, from a fixed set."""
        ...

    @property
    def seconds(self) -> float:
        """How long the attempt took."""
        ...


class LLMMonitor:
    """Counts, traces and records every call of one process. Build it in the worker, after the fork.

    Fails open: a metric, span or record that cannot be made never stops a call, it is counted. With the
    policy's ``monitoring.on_error: closed``, :meth:`begin` refuses calls from a failed audit write until
    one succeeds. All methods belong to one thread, the event loop's; the counts reach other workers'
    scrapes within :data:`FLUSH_SECONDS`.
    """

    def __init__(
        self,
        settings: MonitoringSettings,
        audit: AuditLog | None,
        *,
        clock: Clock,
        registry: CollectorRegistry | None = None,
        tracing: Tracing | None = None,
        entropy: Entropy = os.urandom,
    ) -> None:
        """Declare the metrics and, where the settings ask for it, connect the span exporter.

        Args:
            settings: What to record.
            audit: Where records go; ``None``: nowhere.
            clock: Time of records and durations.
            registry: Replaces the monitor's own Prometheus registry.
            tracing: Replaces the tracing that ``settings.tracing`` switches on.
            entropy: Source of trace ids.

        Raises:
            MissingExtraError: Tracing is switched on and the extra ``otel`` is not installed.
        """
        self.clock = clock
        self.metrics = Metrics(registry)
        self.models = ModelLabels()
        self.captures_content = settings.capture_content
        self._audit = audit
        self._entropy = entropy
        self._fail_closed = False
        self._policy = ("default", "")
        self._flush_handle: asyncio.TimerHandle | None = None
        self._circuits: Callable[[], Mapping[str, CircuitState]] | None = None
        self._tracing = tracing if tracing is not None else _tracing_from(settings)
        if audit is not None:
            audit.on_change = self._count_audit_trouble
        self._audit_seen = (0, 0)

    # Composition

    def use_policy(self, policy: Policy, policy_hash: str | None = None) -> None:
        """Name this policy in the records of the calls that begin from now on, and fail as it says."""
        name, digest = policy.name, policy_hash or hash_of(policy)
        if self._policy[1]:
            self.metrics.policy(*self._policy).value = 0.0
        self._policy = (name, digest)
        self.metrics.policy(name, digest).value = 1.0
        self._fail_closed = policy.monitoring.on_error == "closed"
        self._dirty()

    def know_models(self, models: Iterable[str]) -> None:
        """Give these models their own label value; all others are counted together as ``other``."""
        self.models.know(models)

    def policy_reloaded(self, result: Literal["loaded", "failed"]) -> None:
        """Count a reload of the policy file."""
        self.metrics.reloads(result).inc()
        self._dirty()

    def upstream_event(self, event: UpstreamEventLike) -> None:
        """Count one attempt at an upstream."""
        self.metrics.upstream(event.upstream, event.outcome).inc()
        self.metrics.upstream_seconds(event.upstream).observe(event.seconds)
        self._dirty()

    def watch_circuits(self, read: Callable[[], Mapping[str, CircuitState]]) -> None:
        """Show the state of every upstream's circuit breaker, asked for whenever counts are handed on."""
        self._circuits = read
        self._dirty()

    def ready(self) -> None:
        """Nothing, or the reason why calls are refused.

        Raises:
            AuditUnavailableError: The policy demands audit records and they cannot be written.
        """
        if self._fail_closed and self._audit is not None and self._audit.failing:
            raise AuditUnavailableError(retry_after=1)

    def render_metrics(self) -> tuple[bytes, str]:
        """The Prometheus text format over all workers, and its content type."""
        self._read_circuits()
        return self.metrics.render()

    def flush(self) -> None:
        """Hand on pending counts and write pending audit records now."""
        if self._flush_handle is not None:
            self._flush_handle.cancel()
            self._flush_handle = None
        self._flush_metrics()
        if self._audit is not None:
            self._audit.flush()

    async def close(self) -> None:
        """Write and send all that waits. No call may begin afterwards."""
        self.flush()
        if self._audit is not None:
            self._audit.close()
            self.metrics.flush()
        if self._tracing is not None:
            await asyncio.to_thread(self._tracing.close)

    # Calls

    def begin(
        self,
        *,
        request_id: str,
        principal: Principal,
        model: str,
        operation: Operation,
        stream: bool,
        traceparent: str | None,
    ) -> CallRecord:
        """Open the record of a call that starts now.

        Args:
            request_id: Names the call in answers, spans and records.
            principal: Whom it is charged to.
            model: The model the caller named.
            operation: ``chat`` or ``embeddings``.
            stream: Whether the answer is streamed.
            traceparent: The caller's W3C header, if any; an invalid one is ignored.

        Raises:
            AuditUnavailableError: The policy demands audit records and they cannot be written.
        """
        self.ready()
        record = CallRecord(
            self,
            request_id=request_id,
            principal=principal,
            model=model,
            operation=operation,
            stream=stream,
            started=self.clock.monotonic(),
            policy=self._policy,
        )
        parent = parse_traceparent(traceparent) if traceparent else None
        if self._tracing is None:
            # We record no span, so the caller's context goes on as it came; alone, a call begins a trace.
            context = parent or new_trace(self._entropy)
        else:
            span = self._tracing.start(
                operation=operation, model=model, request_id=request_id, parent=parent, now=self.clock.now()
            )
            record.span = span
            context = self._tracing.context_of(span)
        record.trace_id = context.trace_id
        record.traceparent = context.header
        self.metrics.inflight.value += 1
        return record

    def digests(self, findings: Sequence[Finding], messages: Sequence[Mapping[str, Any]]) -> dict[str, str]:
        """Keyed digests of the messages that findings point into, by ``messages[i]``; empty without audit."""
        if self._audit is None:
            return {}
        wanted = {int(found.group(1)) for f in findings if (found := _MESSAGE.match(f.path))}
        try:
            return {
                f"messages[{i}]": self._audit.digest(canonical_message(messages[i]))
                for i in sorted(wanted)
                if i < len(messages)
            }
        except (OSError, ValueError, RecursionError) as exc:  # no key file; a message too deep for JSON
            self._trouble(exc)
            return {}

    def finished(self, record: CallRecord) -> None:
        """Count, trace and write a finished call; what :meth:`CallRecord.finish` calls. Never raises."""
        self.metrics.inflight.value -= 1
        total = self.clock.monotonic() - record.started
        for step in (self._write, self._count, self._end_span):
            try:
                step(record, total)
            except Exception as exc:  # noqa: BLE001  a call does not fail because recording it did
                self._trouble(exc)
        self._dirty()

    # Inside

    def _write(self, record: CallRecord, total: float) -> None:
        if self._audit is not None:
            self._audit.append(encode_record(audit_record_of(record, total, self.clock.now())))

    def _count(self, record: CallRecord, total: float) -> None:
        self.metrics.count(record, total, self.models(record.model))

    def _end_span(self, record: CallRecord, _total: float) -> None:
        if self._tracing is not None and record.span is not None:
            self._tracing.finish(record.span, record, now=self.clock.now())

    def _dirty(self) -> None:
        if self._flush_handle is None:
            try:
                loop = asyncio.get_running_loop()
            except (
                RuntimeError
            ):  # no loop: a script; its counts are handed on by render_metrics, flush and close
                return
            self._flush_handle = loop.call_later(FLUSH_SECONDS, self._flush_metrics)

    def _flush_metrics(self) -> None:
        self._flush_handle = None
        self._read_circuits()
        self.metrics.flush()

    def _read_circuits(self) -> None:
        if self._circuits is not None:
            for upstream, state in self._circuits().items():
                self.metrics.circuit(upstream).value = CIRCUIT_STATES[state]

    def _count_audit_trouble(self) -> None:
        if self._audit is not None:
            dropped, errors = self._audit_seen
            self._audit_seen = (self._audit.dropped, self._audit.write_errors)
            self.metrics.audit_dropped.inc(self._audit_seen[0] - dropped)
            self.metrics.audit_errors.inc(self._audit_seen[1] - errors)
            self._dirty()

    def _trouble(self, exc: Exception) -> None:
        # The type alone: an exception's text can quote what was being encoded.
        log.error("a call could not be recorded: %s", type(exc).__name__)
        self.metrics.monitor_errors.inc()


def _tracing_from(settings: MonitoringSettings) -> Tracing | None:
    if not settings.tracing:
        return None
    from sparkle.llm.monitoring.tracing import Tracing

    return Tracing()
