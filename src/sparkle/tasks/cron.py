"""When a schedule is due: the five fields of cron in a time zone, or a fixed interval.

A tick is a moment that every process computes alike, so that two beats name it alike and fire it once.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta, tzinfo
from typing import Protocol

_ALIASES = {
    "@hourly": "0 * * * *",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@weekly": "0 0 * * 0",
    "@monthly": "0 0 1 * *",
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
}
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_DAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_MINUTE = timedelta(minutes=1)
_HORIZON = timedelta(days=366 * 9)
"""The longest wait there is: 29 February, over a century without a leap year."""


class Ticks(Protocol):
    """A rule that names moments."""

    def next_after(self, moment: datetime) -> datetime:
        """The first tick later than ``moment``, in UTC."""
        ...

    def latest_until(self, after: datetime, until: datetime) -> datetime | None:
        """The last tick with ``after < tick <= until``, in UTC; ``None``: there is none."""
        ...


@dataclass(frozen=True, slots=True)
class Interval:
    """Every so many seconds, counted from the epoch."""

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds >= 1:
            raise ValueError("an interval has at least 1 second")

    def next_after(self, moment: datetime) -> datetime:
        """The first tick later than ``moment``, in UTC."""
        return self._tick(self._number(moment) + 1)

    def latest_until(self, after: datetime, until: datetime) -> datetime | None:
        """The last tick with ``after < tick <= until``, in UTC."""
        tick = self._tick(self._number(until))
        return tick if tick > after else None

    def _number(self, moment: datetime) -> int:
        return int(_micros(moment) // round(self.seconds * 1_000_000))

    def _tick(self, number: int) -> datetime:
        return datetime.fromtimestamp(0, UTC) + timedelta(
            microseconds=number * round(self.seconds * 1_000_000)
        )


@dataclass(frozen=True, slots=True)
class Cron:
    """``minute hour day month weekday``, each ``*``, numbers, names, ``a-b``, ``*/n`` or a list of these.

    Where both day and weekday are given, either is enough. When the clocks go forward, a time of day that does not
    exist is due at the moment they do; when they go back, one that comes twice is due the first time. A rule for every
    hour goes on through both.
    """

    zone: tzinfo
    minutes: frozenset[int]
    hours: frozenset[int]
    days: frozenset[int]
    months: frozenset[int]
    weekdays: frozenset[int]
    """0 is Sunday."""
    any_day: bool
    any_weekday: bool

    @classmethod
    def parse(cls, text: str, zone: tzinfo) -> Cron:
        """Read the five fields, or an alias such as ``@daily``.

        Raises:
            ValueError: A field is wrong, or there are not five; the message names it.
        """
        fields = _ALIASES.get(text.strip().lower(), text).split()
        if len(fields) != 5:
            raise ValueError(
                f"cron has five fields (minute hour day month weekday), not {len(fields)}: {text!r}"
            )
        minute, hour, day, month, weekday = fields
        weekdays = {number % 7 for number in _field("weekday", weekday, 0, 7, _DAYS, 0)}
        parsed = cls(
            zone,
            _field("minute", minute, 0, 59),
            _field("hour", hour, 0, 23),
            _field("day", day, 1, 31),
            _field("month", month, 1, 12, _MONTHS, 1),
            frozenset(weekdays),
            any_day=day.startswith("*"),
            any_weekday=weekday.startswith("*"),
        )
        parsed.next_after(
            datetime.now(UTC)
        )  # 31 February is seen when it is written down, not when it never comes
        return parsed

    def next_after(self, moment: datetime) -> datetime:
        """The first tick later than ``moment``, in UTC.

        Raises:
            ValueError: No day ever matches, such as 31 February.
        """
        time = moment.astimezone(UTC).replace(second=0, microsecond=0) + _MINUTE
        end = time + _HORIZON
        while time < end:
            local = time.astimezone(self.zone)
            if not self._day_matches(local.date()):
                time = max(self._next_day(local), time + _MINUTE)
            elif self._due(time, local):
                return time
            else:
                time += _MINUTE
        raise ValueError("no day ever matches this cron rule")

    def latest_until(self, after: datetime, until: datetime) -> datetime | None:
        """The last tick with ``after < tick <= until``, in UTC; looks back a day at a time."""
        upper = until
        while upper > after:
            lower = max(after, upper - timedelta(days=1))
            found: datetime | None = None
            tick = self.next_after(lower)
            while tick <= upper:
                found, tick = tick, self.next_after(tick)
            if found is not None:
                return found
            upper = lower
        return None

    def _day_matches(self, day: date) -> bool:
        if day.month not in self.months:
            return False
        by_day, by_weekday = day.day in self.days, (day.weekday() + 1) % 7 in self.weekdays
        return (by_day and by_weekday) if self.any_day or self.any_weekday else (by_day or by_weekday)

    def _next_day(self, local: datetime) -> datetime:
        midnight = datetime.combine(local.date() + timedelta(days=1), datetime.min.time(), self.zone)
        # A little before it, because at midnight clocks may go forward, and what they skip must be seen.
        return (
            midnight.astimezone(UTC) - timedelta(hours=2) if _shifts(midnight) else midnight.astimezone(UTC)
        )

    def _due(self, time: datetime, local: datetime) -> bool:
        every_hour = len(self.hours) == 24
        if local.minute in self.minutes and local.hour in self.hours and (local.fold == 0 or every_hour):
            return True
        if every_hour:
            return False
        before = (time - _MINUTE).astimezone(self.zone)
        skipped = _offset(local) - _offset(before)
        wall = before.replace(tzinfo=None)
        return any(
            (gone := wall + _MINUTE * step).minute in self.minutes and gone.hour in self.hours
            for step in range(1, int(skipped / _MINUTE) + 1)
        )


def _shifts(moment: datetime) -> bool:
    return _offset(moment - timedelta(hours=3)) != _offset(moment + timedelta(hours=3))


def _offset(moment: datetime) -> timedelta:
    return moment.utcoffset() or timedelta()


def _micros(moment: datetime) -> int:
    return (moment - datetime.fromtimestamp(0, UTC)) // timedelta(microseconds=1)


def _field(
    name: str, text: str, least: int, most: int, names: tuple[str, ...] = (), first: int = 0
) -> frozenset[int]:
    found: set[int] = set()
    for part in text.lower().split(","):
        span, slash, step_text = part.partition("/")
        low_text, dash, high_text = span.partition("-")
        if span == "*":
            low, high = least, most
        else:
            low = _number(name, low_text, names, first)
            high = _number(name, high_text, names, first) if dash else (most if slash else low)
        step = _number(name, step_text, (), 0) if slash else 1
        if not (least <= low <= high <= most) or step < 1:
            raise ValueError(f"cron: {name} {part!r} is not within {least}-{most}")
        found.update(range(low, high + 1, step))
    return frozenset(found)


def _number(name: str, text: str, names: tuple[str, ...], first: int) -> int:
    if text in names:
        return names.index(text) + first
    if not text.isascii() or not text.isdigit():
        raise ValueError(f"cron: {name} {text!r} is no number")
    return int(text)
