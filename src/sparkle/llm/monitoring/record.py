"""The record of one call: filled in as the call walks through the layers, handed in once at its end."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

from sparkle.llm.usage import Principal, Usage
from sparkle.llm.verdict import Finding, Layer, Verdict

if TYPE_CHECKING:
    from opentelemetry.trace import Span

    from sparkle.errors import LimitError
    from sparkle.llm.monitoring.monitor import LLMMonitor

Operation = Literal["chat", "embeddings"]

Outcome = Literal[
    "ok",
    "input_blocked",
    "output_blocked",
    "rate_limited",
    "quota_exceeded",
    "upstream_error",
    "client_closed",
    "invalid",
    "error",
]


class HasId(Protocol):
    """A reservation, as far as this room needs one."""

    @property
    def id(self) -> str:
        """Its identifier."""
        ...


class CallRecord:
    """What is known of one running call. Cheap, mutable, used from one thread; :meth:`finish` closes it once.

    Nothing here raises: a call does not fail because it is watched.
    """

    __slots__ = (
        "_finished",
        "_monitor",
        "_upstream_since",
        "content",
        "cost_nano",
        "error_type",
        "finish_reason",
        "first_token_seconds",
        "http_status",
        "input_findings",
        "input_hmac",
        "input_seconds",
        "limit",
        "model",
        "operation",
        "outcome",
        "output_findings",
        "output_seconds",
        "policy",
        "principal",
        "quota_seconds",
        "request_id",
        "reservation_id",
        "response_id",
        "response_model",
        "server_address",
        "span",
        "started",
        "stream",
        "trace_id",
        "traceparent",
        "upstream",
        "upstream_seconds",
        "used",
    )

    def __init__(
        self,
        monitor: LLMMonitor,
        *,
        request_id: str,
        principal: Principal,
        model: str,
        operation: Operation,
        stream: bool,
        started: float,
        policy: tuple[str, str],
    ) -> None:
        self._monitor = monitor
        self._finished = False
        self._upstream_since: float | None = None
        self.request_id = request_id
        self.principal = principal
        self.model = model
        self.operation: Operation = operation
        self.stream = stream
        self.started = started
        self.policy = policy
        """Name and hash of the policy in force when the call began."""
        self.traceparent = ""
        """Value of the ``traceparent`` header for the upstream."""
        self.trace_id = ""
        self.span: Span | None = None
        self.input_findings: tuple[Finding, ...] = ()
        self.output_findings: tuple[Finding, ...] = ()
        self.input_hmac: dict[str, str] = {}
        self.input_seconds = 0.0
        self.quota_seconds = 0.0
        self.upstream_seconds = 0.0
        self.output_seconds = 0.0
        self.first_token_seconds: float | None = None
        self.reservation_id: str | None = None
        self.limit: str | None = None
        self.used: Usage | None = None
        self.cost_nano = 0
        self.upstream: str | None = None
        self.response_id: str | None = None
        self.response_model: str | None = None
        self.server_address: str | None = None
        self.content: dict[str, Any] | None = None
        self.outcome: Outcome = "error"
        self.http_status = 500
        self.finish_reason: str | None = None
        self.error_type: str | None = None

    @property
    def wants_content(self) -> bool:
        """Whether :meth:`captured` would keep anything: tracing is on and message content was asked for."""
        return self.span is not None and self._monitor.captures_content

    @property
    def finished(self) -> bool:
        """Whether :meth:`finish` was called."""
        return self._finished

    def input_checked(
        self, verdict: Verdict, seconds: float, *, messages: Sequence[Mapping[str, Any]] | None = None
    ) -> None:
        """The input layer judged the call in ``seconds``.

        With ``messages`` (the caller's own, before redaction) those with findings get a keyed digest in the
        audit record, by which an operator can show that a request at hand is the one that was refused.
        """
        self.input_seconds += seconds
        if verdict.findings:
            self.input_findings += verdict.findings
            if messages is not None:
                self.input_hmac = self._monitor.digests(verdict.findings, messages)

    def reserved(self, reservation: HasId | None, seconds: float) -> None:
        """The quota layer reserved in ``seconds``; ``None`` where it was down and the policy fails open."""
        self.quota_seconds += seconds
        if reservation is not None:
            self.reservation_id = reservation.id

    def refused(self, error: LimitError, seconds: float = 0.0) -> None:
        """The quota layer refused the call; its ``details`` name scope and limit."""
        self.quota_seconds += seconds
        self.limit = limit_label(error)

    def guard_failed(self, layer: Layer | Literal["quota"], failed: Literal["open", "closed"]) -> None:
        """A layer itself crashed or was down, and the policy let the call through or refused it."""
        self._monitor.metrics.guard_errors(layer, failed).inc()

    def upstream_started(self) -> None:
        """The request is handed to the provider layer."""
        if self._upstream_since is None:
            self._upstream_since = self._monitor.clock.monotonic()

    def first_token(self) -> None:
        """The first text of a stream left for the caller; later calls change nothing."""
        if self.first_token_seconds is None:
            self.first_token_seconds = self._monitor.clock.monotonic() - self.started

    def upstream_finished(
        self,
        upstream: str | None = None,
        *,
        response_id: str | None = None,
        response_model: str | None = None,
        server_address: str | None = None,
    ) -> None:
        """The provider layer is done; who answered, where that is known."""
        if self._upstream_since is not None:
            self.upstream_seconds += self._monitor.clock.monotonic() - self._upstream_since
            self._upstream_since = None
        self.upstream = upstream or self.upstream
        self.response_id = response_id or self.response_id
        self.response_model = response_model or self.response_model
        self.server_address = server_address or self.server_address

    def output_checked(self, verdict: Verdict, seconds: float = 0.0) -> None:
        """The output layer judged the whole answer, in ``seconds`` in all; the last call counts."""
        self.output_seconds = seconds
        self.output_findings = verdict.findings

    def usage(self, usage: Usage, cost_nano: int) -> None:
        """Tokens and cost (10^-9 US dollars) that were settled."""
        self.used = usage
        self.cost_nano = cost_nano

    def captured(self, *, input_messages: object = None, output_messages: object = None) -> None:
        """Message content for the span, as it went to the model and to the caller; kept only if asked for."""
        if self.wants_content:
            self.content = {
                **(self.content or {}),
                **({"input": input_messages} if input_messages is not None else {}),
                **({"output": output_messages} if output_messages is not None else {}),
            }

    def finish(
        self,
        outcome: Outcome,
        http_status: int,
        finish_reason: str | None = None,
        error_type: str | None = None,
    ) -> None:
        """Close the record: count, trace, write. Only the first call does anything."""
        if self._finished:
            return
        self._finished = True
        self.upstream_finished()
        self.outcome = outcome
        self.http_status = http_status
        self.finish_reason = finish_reason
        self.error_type = error_type
        self._monitor.finished(self)


def limit_label(error: LimitError) -> str:
    """``user.tokens_per_day`` from a refusal's details, or its code where they name no limit."""
    scope, name = error.details.get("scope"), error.details.get("limit_name")
    if isinstance(scope, str) and isinstance(name, str):
        return f"{scope}.{name}"
    return error.code
