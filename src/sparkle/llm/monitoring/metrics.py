"""Every metric that Sparkle exposes, declared once. Labels are bounded and never name a user or a prompt."""

from __future__ import annotations

import platform
import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

from sparkle.series import Counter, Exposition, Histogram

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

    from sparkle.llm.monitoring.record import CallRecord

_CALL = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
_FIRST_TOKEN = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0)
_OVERHEAD = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.5, 1.0)
_GUARD = (0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 1.0)

MAX_MODELS = 100
"""Most model names that get a series of their own; beyond it the label is ``other``."""

_LABEL = re.compile(r"[A-Za-z0-9][A-Za-z0-9._:/@+-]{0,99}")

OTHER = "other"


@dataclass(frozen=True, slots=True)
class _CallSeries:
    """What every call of one operation and model touches, looked up once."""

    duration: Histogram
    overhead: Histogram
    prompt: Counter
    completion: Counter
    cost: Counter


class Metrics:
    """The series of one process, added up over workers where :func:`share_metrics` was called.

    Values are counted from one thread (the event loop); :meth:`flush` and :meth:`render` belong to it too.
    """

    def __init__(self, registry: CollectorRegistry | None = None) -> None:
        self.exposition = Exposition(registry)
        counter, histogram, gauge = self.exposition.counter, self.exposition.histogram, self.exposition.gauge
        self.requests = counter(
            "sparkle_requests_total", "Finished calls by outcome.", ("operation", "model", "outcome")
        )
        self.duration = histogram(
            "sparkle_request_duration_seconds", "Whole call, upstream included.", _CALL, ("operation",)
        )
        self.overhead = histogram(
            "sparkle_gateway_overhead_seconds",
            "Whole call minus the time upstream.",
            _OVERHEAD,
            ("operation",),
        )
        self.first_token = histogram(
            "sparkle_time_to_first_token_seconds",
            "Streams: until the first text left.",
            _FIRST_TOKEN,
            ("model",),
        )
        self.tokens = counter("sparkle_tokens_total", "Tokens used.", ("model", "kind"))
        self.cost = counter("sparkle_cost_usd_total", "Money spent upstream, by the price table.", ("model",))
        self.findings = counter(
            "sparkle_guard_findings_total", "What the guards found.", ("layer", "category", "mode")
        )
        self.guard_seconds = histogram(
            "sparkle_guard_seconds", "Time a layer took: input, quota or output.", _GUARD, ("layer",)
        )
        self.guard_errors = counter(
            "sparkle_guard_errors_total", "Crashes of a layer and what they meant.", ("layer", "failed")
        )
        self.refusals = counter("sparkle_quota_refusals_total", "Calls refused by a limit.", ("limit",))
        self.upstream = counter(
            "sparkle_upstream_requests_total", "Attempts at an upstream.", ("upstream", "outcome")
        )
        self.upstream_seconds = histogram(
            "sparkle_upstream_seconds", "Time of an attempt at an upstream.", _CALL, ("upstream",)
        )
        self.circuit = gauge(
            "sparkle_circuit_state",
            "Circuit breaker: 0 closed, 1 half-open, 2 open; the worst worker's.",
            ("upstream",),
            over_workers="livemax",
        )
        self.inflight = gauge("sparkle_inflight_requests", "Calls running now.", over_workers="livesum")()
        self.audit_dropped = counter("sparkle_audit_dropped_total", "Audit records lost.")()
        self.audit_errors = counter("sparkle_audit_write_errors_total", "Failed writes of the audit file.")()
        self.monitor_errors = counter("sparkle_monitor_errors_total", "Calls whose recording failed.")()
        self.reloads = counter(
            "sparkle_policy_reloads_total", "Policy reloads: loaded or failed.", ("result",)
        )
        self.policy = gauge(
            "sparkle_policy_info",
            "1 for the policy in force, 0 for earlier ones.",
            ("name", "hash"),
            over_workers="livemax",
        )
        self.build = gauge("sparkle_build_info", "Always 1.", ("version", "python"), over_workers="livemax")(
            _version(), platform.python_version()
        )
        self.build.value = 1.0
        self._calls: dict[tuple[str, str], _CallSeries] = {}
        self._input_seconds = self.guard_seconds("input")
        self._quota_seconds = self.guard_seconds("quota")
        self._output_seconds = self.guard_seconds("output")
        for result in ("loaded", "failed"):
            self.reloads(result)  # a series that exists at 0 can be alerted on

    def count(self, record: CallRecord, total: float, model: str) -> None:
        """Count a finished call that took ``total`` seconds, under the label ``model``."""
        operation = record.operation
        series = self._calls.get((operation, model)) or self._series_of(operation, model)
        self.requests(operation, model, record.outcome).inc()
        series.duration.observe(total)
        series.overhead.observe(max(0.0, total - record.upstream_seconds))
        if record.first_token_seconds is not None:
            self.first_token(model).observe(record.first_token_seconds)
        if record.input_seconds:
            self._input_seconds.observe(record.input_seconds)
        if record.quota_seconds:
            self._quota_seconds.observe(record.quota_seconds)
        if record.output_seconds:
            self._output_seconds.observe(record.output_seconds)
        if record.used is not None:
            series.prompt.inc(record.used.prompt_tokens)
            series.completion.inc(record.used.completion_tokens)
        if record.cost_nano:
            series.cost.inc(record.cost_nano / 1e9)
        if record.limit is not None:
            self.refusals(record.limit).inc()
        for finding in record.input_findings:
            self.findings(finding.layer, finding.category, finding.mode).inc()
        for finding in record.output_findings:
            self.findings(finding.layer, finding.category, finding.mode).inc()

    def _series_of(self, operation: str, model: str) -> _CallSeries:
        series = _CallSeries(
            self.duration(operation),
            self.overhead(operation),
            self.tokens(model, "prompt"),
            self.tokens(model, "completion"),
            self.cost(model),
        )
        self._calls[operation, model] = series
        return series

    def flush(self) -> None:
        """Hand the pending values on, so that other workers' scrapes see them."""
        self.exposition.flush()

    def render(self) -> tuple[bytes, str]:
        """The Prometheus text format and its content type."""
        return self.exposition.render()


class ModelLabels:
    """Turns a model name that a caller wrote into a label value, from a bounded set."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, model: str) -> str:
        """``model`` if it is known, else ``other``."""
        return self._known.get(model, OTHER)

    def know(self, models: Iterable[str]) -> None:
        """Give these models a label of their own: what the router, its aliases or an upstream's answer named.

        Names that are too long or hold odd characters, and all beyond :data:`MAX_MODELS`, stay ``other``.
        """
        for model in models:
            if len(self._known) >= MAX_MODELS:
                return
            if _LABEL.fullmatch(model):
                self._known[model] = model


def _version() -> str:
    try:
        return version("sparkle-llm")
    except PackageNotFoundError:  # run from a source tree that was not installed
        return "unknown"
