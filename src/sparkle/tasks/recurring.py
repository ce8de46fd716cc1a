"""What the beat schedules again and again: entries from the settings and from code."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sparkle.errors import ConfigurationError
from sparkle.settings_tasks import ScheduleSettings
from sparkle.tasks.calls import TaskCall
from sparkle.tasks.cron import Cron, Interval, Ticks

Missed = Literal["latest", "skip"]


@dataclass(frozen=True, slots=True)
class Recurring:
    """One entry of the beat."""

    name: str
    """Part of every tick's unique name; stays the same when the rule changes."""
    task: str
    ticks: Ticks
    missed: Missed = "latest"
    """What became due while no beat ran: ``latest`` fires the last such tick, ``skip`` none."""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict[str, Any])
    queue: str | None = None
    priority: int | None = None
    user_id: str | None = None

    def call(self, tick: datetime) -> TaskCall:
        """The call that fires ``tick``. Made twice, it is one task."""
        return TaskCall(
            self.task,
            self.args,
            self.kwargs,
            queue=self.queue,
            priority=self.priority,
            user_id=self.user_id,
            schedule=f"{self.name}@{tick.astimezone(UTC).isoformat(timespec='milliseconds')}",
        )


_registered: dict[str, Recurring] = {}


def recurring(
    name: str,
    task: str,
    *,
    cron: str | None = None,
    every: float | None = None,
    timezone: str = "UTC",
    missed: Missed = "latest",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    queue: str | None = None,
    priority: int | None = None,
    user_id: str | None = None,
) -> Recurring:
    """Let the beat schedule a long task again and again; call it at import, in a module of ``tasks.modules``.

    Args:
        name: Unique among all schedules; part of each tick's name.
        task: Name of the long task.
        cron: Five fields, or ``@daily`` and the like. Give ``cron`` or ``every``, not both.
        every: Seconds, at least 1, counted from the epoch.
        timezone: IANA zone of ``cron``.
        missed: ``latest``: after an outage of the beat the last missed tick fires; ``skip``: none does.
        args: Positional arguments of the task.
        kwargs: Named arguments of the task.
        queue: ``None``: the task's own.
        priority: ``None``: the task's own.
        user_id: For whom.

    Raises:
        ConfigurationError: The rule is wrong, or another entry has this name.
    """
    entry = Recurring(
        name,
        task,
        _ticks(name, cron, every, timezone),
        missed,
        tuple(args),
        dict(kwargs or {}),
        queue,
        priority,
        user_id,
    )
    known = _registered.get(name)
    if known is not None and known != entry:
        raise ConfigurationError(
            f"two schedules are named {name!r}; a tick could not be told from the other's"
        )
    _registered[name] = entry
    return entry


def all_recurring(settings: Mapping[str, ScheduleSettings]) -> list[Recurring]:
    """Entries of code and settings; one in the settings takes the place of the one in code with its name.

    Raises:
        ConfigurationError: A rule in the settings is wrong.
    """
    entries = dict(_registered)
    for name, entry in settings.items():
        ticks = _ticks(name, entry.cron or None, entry.every or None, entry.timezone)
        entries[name] = Recurring(
            name,
            entry.task,
            ticks,
            entry.missed,
            tuple(entry.args),
            entry.kwargs,
            entry.queue or None,
            entry.priority,
        )
    return _sorted(entries.values())


def _sorted(entries: Iterable[Recurring]) -> list[Recurring]:
    return sorted(entries, key=lambda entry: entry.name)


def _ticks(name: str, cron: str | None, every: float | None, timezone: str) -> Ticks:
    if not name or len(name) > 100 or "@" in name:
        raise ConfigurationError(f"schedule {name!r}: a name has 1 to 100 characters and no @")
    if (cron is None) == (every is None):
        raise ConfigurationError(f"schedule {name!r}: give cron or every, one of them")
    try:
        if cron is not None:
            return Cron.parse(cron, ZoneInfo(timezone))
        return Interval(every or 0.0)
    except ZoneInfoNotFoundError:
        raise ConfigurationError(f"schedule {name!r}: there is no time zone {timezone!r}") from None
    except ValueError as exc:
        raise ConfigurationError(f"schedule {name!r}: {exc}") from None
