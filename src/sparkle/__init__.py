"""Sparkle: the backend an LLM product stands on.

The public names and nothing else. They load on first use, so that ``import sparkle`` and the command line stay quick.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sparkle.compose import open_wrapper
    from sparkle.errors import (
        AuthenticationError,
        BrokerUnavailableError,
        ConcurrencyLimitError,
        ConfigurationError,
        InputBlockedError,
        InvalidRequestError,
        LimitError,
        MissingExtraError,
        NoCurrentTaskError,
        PermissionDeniedError,
        PolicyError,
        ProviderError,
        ProviderRateLimitError,
        ProviderRejectedError,
        ProviderTimeoutError,
        QuotaExceededError,
        RateLimitError,
        SparkleError,
        StoreUnavailableError,
        TaskCancelledError,
        TaskError,
        TaskTimeoutError,
    )
    from sparkle.errors_tasks import (
        ForeignSessionError,
        LeaseLostError,
        LedgerSchemaError,
        LedgerUnavailableError,
        TaskArgumentsError,
        TaskFailedError,
        TaskManagerClosedError,
        TaskNotFoundError,
        TaskQueueFullError,
        TaskStateError,
        UnknownTaskError,
    )
    from sparkle.llm.monitoring import LLMMonitor
    from sparkle.llm.output import OutputValidator
    from sparkle.llm.policy import Policy
    from sparkle.llm.policy_source import load_policy
    from sparkle.llm.quota import LLMCostGuard
    from sparkle.llm.results import ChatResult, StreamEvent
    from sparkle.llm.safety import LLMSafety
    from sparkle.llm.safety.build import build_safety
    from sparkle.llm.security_wrapper import LLMSecurityWrapper
    from sparkle.llm.usage import Principal, Usage
    from sparkle.llm.verdict import Action, Finding, Mode, Severity, Verdict
    from sparkle.settings import Settings, load_settings
    from sparkle.tasks.calls import TaskCall
    from sparkle.tasks.context import current_task
    from sparkle.tasks.handle import TaskHandle
    from sparkle.tasks.manager import TaskManager
    from sparkle.tasks.opening import open_task_manager
    from sparkle.tasks.record import TaskRecord
    from sparkle.tasks.recurring import recurring
    from sparkle.tasks.registry import long_task
    from sparkle.tasks.retry import RetryPolicy
    from sparkle.tasks.schedule import (
        close_tasks,
        configure_tasks,
        schedule_long_task,
        schedule_long_task_async,
        schedule_long_tasks,
    )
    from sparkle.tasks.short_reports import DrainReport, ManagerHealth
    from sparkle.tasks.states import TaskMode, TaskState

__all__ = [
    "Action",
    "AuthenticationError",
    "BrokerUnavailableError",
    "ChatResult",
    "ConcurrencyLimitError",
    "ConfigurationError",
    "DrainReport",
    "Finding",
    "ForeignSessionError",
    "InputBlockedError",
    "InvalidRequestError",
    "LLMCostGuard",
    "LLMMonitor",
    "LLMSafety",
    "LLMSecurityWrapper",
    "LeaseLostError",
    "LedgerSchemaError",
    "LedgerUnavailableError",
    "LimitError",
    "ManagerHealth",
    "MissingExtraError",
    "Mode",
    "NoCurrentTaskError",
    "OutputValidator",
    "PermissionDeniedError",
    "Policy",
    "PolicyError",
    "Principal",
    "ProviderError",
    "ProviderRateLimitError",
    "ProviderRejectedError",
    "ProviderTimeoutError",
    "QuotaExceededError",
    "RateLimitError",
    "RetryPolicy",
    "Settings",
    "Severity",
    "SparkleError",
    "StoreUnavailableError",
    "StreamEvent",
    "TaskArgumentsError",
    "TaskCall",
    "TaskCancelledError",
    "TaskError",
    "TaskFailedError",
    "TaskHandle",
    "TaskManager",
    "TaskManagerClosedError",
    "TaskMode",
    "TaskNotFoundError",
    "TaskQueueFullError",
    "TaskRecord",
    "TaskState",
    "TaskStateError",
    "TaskTimeoutError",
    "UnknownTaskError",
    "Usage",
    "Verdict",
    "build_safety",
    "close_tasks",
    "configure_tasks",
    "current_task",
    "load_policy",
    "load_settings",
    "long_task",
    "open_task_manager",
    "open_wrapper",
    "recurring",
    "schedule_long_task",
    "schedule_long_task_async",
    "schedule_long_tasks",
]

_HOMES = {
    "sparkle.compose": ("open_wrapper",),
    "sparkle.llm.monitoring": ("LLMMonitor",),
    "sparkle.llm.output": ("OutputValidator",),
    "sparkle.llm.policy": ("Policy",),
    "sparkle.llm.policy_source": ("load_policy",),
    "sparkle.llm.quota": ("LLMCostGuard",),
    "sparkle.llm.results": ("ChatResult", "StreamEvent"),
    "sparkle.llm.safety": ("LLMSafety",),
    "sparkle.llm.safety.build": ("build_safety",),
    "sparkle.llm.security_wrapper": ("LLMSecurityWrapper",),
    "sparkle.llm.usage": ("Principal", "Usage"),
    "sparkle.llm.verdict": ("Action", "Finding", "Mode", "Severity", "Verdict"),
    "sparkle.tasks.handle": ("TaskHandle",),
    "sparkle.tasks.manager": ("TaskManager",),
    "sparkle.tasks.opening": ("open_task_manager",),
    "sparkle.tasks.short_reports": ("DrainReport", "ManagerHealth"),
    "sparkle.settings": ("Settings", "load_settings"),
    "sparkle.errors_tasks": (
        "TaskManagerClosedError",
        "TaskQueueFullError",
        "ForeignSessionError",
        "LeaseLostError",
        "LedgerSchemaError",
        "LedgerUnavailableError",
        "TaskArgumentsError",
        "TaskFailedError",
        "TaskNotFoundError",
        "TaskStateError",
        "UnknownTaskError",
    ),
    "sparkle.tasks.calls": ("TaskCall",),
    "sparkle.tasks.context": ("current_task",),
    "sparkle.tasks.record": ("TaskRecord",),
    "sparkle.tasks.recurring": ("recurring",),
    "sparkle.tasks.registry": ("long_task",),
    "sparkle.tasks.retry": ("RetryPolicy",),
    "sparkle.tasks.schedule": (
        "close_tasks",
        "configure_tasks",
        "schedule_long_task",
        "schedule_long_task_async",
        "schedule_long_tasks",
    ),
    "sparkle.tasks.states": (
        "TaskMode",
        "TaskState",
    ),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'sparkle' has no attribute {name!r}")
    value = getattr(import_module(_HOME_OF.get(name, "sparkle.errors")), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
