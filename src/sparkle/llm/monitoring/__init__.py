"""Layer 5: metrics, spans and the audit record of every call. Fails open unless the policy says otherwise."""

from sparkle.llm.monitoring.audit import AuditLog
from sparkle.llm.monitoring.monitor import LLMMonitor
from sparkle.llm.monitoring.record import CallRecord, Operation, Outcome
from sparkle.llm.monitoring.shared import forget_process, share_metrics

__all__ = ["AuditLog", "CallRecord", "LLMMonitor", "Operation", "Outcome", "forget_process", "share_metrics"]
