"""A monitor at its desk: clock, audit folder, and ways to look at what it counted and wrote."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families
from tests.support.clock import ManualClock

from sparkle.llm.monitoring import AuditLog, CallRecord, LLMMonitor
from sparkle.llm.usage import Principal, Usage
from sparkle.llm.verdict import ALLOW, Finding, Mode, Severity
from sparkle.settings import MonitoringSettings

SECRET = "the-patient-has-a-secret"


@dataclass(frozen=True)
class Held:
    """A reservation."""

    id: str = "res_1"


@dataclass(frozen=True)
class Attempt:
    """One attempt at an upstream."""

    upstream: str
    outcome: str
    seconds: float


def finding(mode: Mode = Mode.BLOCK, path: str = "messages[1].content") -> Finding:
    """A finding of the input guard."""
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
        """A call that begins; ``changes`` to how it usually does."""
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
        """The value of a sample, ``None`` where there is none."""
        text = self.monitor.render_metrics()[0].decode()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                if sample.name == name and sample.labels == labels:
                    return sample.value
        return None

    def line(self) -> dict[str, Any]:
        """The only audit record."""
        (line,) = self.lines()
        return line

    def lines(self) -> list[dict[str, Any]]:
        """All audit records."""
        self.monitor.flush()
        return [json.loads(x) for file in self.folder.glob("*.jsonl") for x in file.read_bytes().splitlines()]


def whole_call(desk: Desk) -> CallRecord:
    """A streamed call from its beginning to its end, two seconds later."""
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
