"""Which functions are long tasks, under which name, with which limits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Generic, ParamSpec, TypeVar, cast

from sparkle.errors import ConfigurationError
from sparkle.tasks.retry import RetryPolicy

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class LongTask(Generic[P, R]):
    """A function that a worker may run, with what the worker must know about it. Calling it calls the function."""

    name: str
    function: Callable[P, R]
    is_async: bool
    """Whether the function is ``async def``: those share one event loop per worker child."""
    max_attempts: int
    retry: RetryPolicy
    timeout: float | None
    """Seconds until ``TaskTimeoutError`` is raised inside the task; ``None`` takes the setting."""
    hard_timeout: float | None
    """Seconds until the child that runs it is killed; ``None`` takes the setting."""
    priority: int
    """0 to 9; 9 is handed out first."""
    unique: bool
    """Whether at most one task of this name with the same arguments may be unfinished."""
    queue: str | None
    """Queue it waits in; ``None`` chooses one by priority."""

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now, as if it were no task."""
        return self.function(*args, **kwargs)


@dataclass(slots=True)
class TaskRegistry:
    """Tasks by name."""

    _tasks: dict[str, LongTask[..., Any]] = field(default_factory=dict[str, LongTask[..., Any]])

    def add(self, task: LongTask[..., Any]) -> None:
        """Take ``task`` in.

        Raises:
            ConfigurationError: Another function has its name.
        """
        known = self._tasks.get(task.name)
        if known is not None and _origin(known.function) != _origin(task.function):
            raise ConfigurationError(
                f"two functions are the long task {task.name!r}: {_origin(known.function)} and "
                f"{_origin(task.function)}; give one of them another name"
            )
        # The same function again is a module that was imported under two names or reloaded: the newest counts.
        self._tasks[task.name] = task

    def get(self, name: str) -> LongTask[..., Any] | None:
        """The task of that name, or ``None`` if this process does not know it."""
        return self._tasks.get(name)

    def __iter__(self) -> Iterator[LongTask[..., Any]]:
        return iter(sorted(self._tasks.values(), key=lambda task: task.name))

    def __len__(self) -> int:
        return len(self._tasks)


registry = TaskRegistry()
"""What ``@long_task`` fills. It holds functions and limits, no connection."""


def long_task(
    name: str,
    *,
    max_attempts: int = 5,
    retry: RetryPolicy | None = None,
    timeout: float | None = None,
    hard_timeout: float | None = None,
    priority: int = 5,
    unique: bool = False,
    queue: str | None = None,
    into: TaskRegistry | None = None,
) -> Callable[[Callable[P, R]], LongTask[P, R]]:
    """Make a function, plain or ``async``, a long task.

    ::

        @long_task("make_report", max_attempts=3, timeout=60)
        def make_report(user_id: str) -> dict[str, int]: ...

    A plain function runs in a worker child's main thread, one after another; an ``async`` one shares the child's event
    loop with the others. Arguments and result are JSON. The function may run again after a crash: what it does outside
    the ledger's database it should do under ``current_task().idempotency_token``.

    Args:
        name: What ``schedule_long_task`` calls it by; stays the same when the function moves.
        max_attempts: Failed attempts until it is a dead letter. A shutdown consumes none.
        retry: Backoff between attempts; ``None``: the default policy.
        timeout: Seconds until ``TaskTimeoutError`` is raised in it; ``None``: ``SPARKLE_TASKS__SOFT_SECONDS``.
        hard_timeout: Seconds until the child running it is killed; ``None``: ``SPARKLE_TASKS__HARD_SECONDS``.
        priority: 0 to 9; 9 is handed out first.
        unique: Allow at most one unfinished task with the same arguments.
        queue: Queue to wait in; ``None``: by priority.
        into: Registry to enter it in; ``None``: the one that workers read.

    Raises:
        ValueError: A limit is out of range.
        ConfigurationError: Another function has this name.
    """
    if not name or len(name) > 200:
        raise ValueError("a task name has 1 to 200 characters")
    if max_attempts < 1:
        raise ValueError("max_attempts must be at least 1")
    if not 0 <= priority <= 9:
        raise ValueError("priority must be 0 to 9")
    if any(limit is not None and limit <= 0 for limit in (timeout, hard_timeout)):
        raise ValueError("timeout and hard_timeout must be positive")

    def register(function: Callable[P, R]) -> LongTask[P, R]:
        task = LongTask(
            name=name,
            function=function,
            is_async=inspect.iscoroutinefunction(function),
            max_attempts=max_attempts,
            retry=retry or RetryPolicy(),
            timeout=timeout,
            hard_timeout=hard_timeout,
            priority=priority,
            unique=unique,
            queue=queue,
        )
        (registry if into is None else into).add(cast("LongTask[..., Any]", task))
        return task

    return register


def load_task_modules(modules: Iterable[str]) -> None:
    """Import the modules that define long tasks.

    Raises:
        ConfigurationError: A module is not there, or fails while it is imported.
    """
    for module in modules:
        try:
            import_module(module)
        except ImportError as exc:
            raise ConfigurationError(
                f"tasks.modules (SPARKLE_TASKS__MODULES) names {module!r}, which cannot be imported: {exc}"
            ) from exc


def _origin(function: Callable[..., Any]) -> str:
    return f"{getattr(function, '__module__', '?')}.{getattr(function, '__qualname__', repr(function))}"
