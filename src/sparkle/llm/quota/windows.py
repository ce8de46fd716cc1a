"""When a day and a month begin, in a timezone.

Boundaries are computed on the local calendar, so that a day with a clock change has its true 23 or 25 hours.
"""

from __future__ import annotations

from datetime import date, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from msgspec import Struct

from sparkle.errors import ConfigurationError


class Window(Struct, frozen=True):
    """A day or a month."""

    label: str
    """``2026-11-22`` or ``2026-11``."""
    start: float
    """First moment, Unix seconds."""
    end: float
    """First moment of the next window, Unix seconds."""


class Calendar:
    """Days and months of one IANA timezone.

    Raises:
        ConfigurationError: The timezone is unknown.
    """

    def __init__(self, timezone: str) -> None:
        try:
            self.zone = ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError, OSError):
            raise ConfigurationError(f"quota.timezone: {timezone!r} is not a known IANA timezone") from None

    def day(self, now: float) -> Window:
        """The local day that contains ``now`` (Unix seconds)."""
        today = datetime.fromtimestamp(now, self.zone).date()
        return Window(today.isoformat(), self._midnight(today), self._midnight(today + timedelta(days=1)))

    def month(self, now: float) -> Window:
        """The local calendar month that contains ``now`` (Unix seconds)."""
        first = datetime.fromtimestamp(now, self.zone).date().replace(day=1)
        following = (first + timedelta(days=32)).replace(day=1)
        return Window(first.strftime("%Y-%m"), self._midnight(first), self._midnight(following))

    def show(self, moment: float) -> str:
        """A moment (Unix seconds) as ISO 8601 with the zone's offset, to the second."""
        return datetime.fromtimestamp(moment, self.zone).isoformat(timespec="seconds")

    def _midnight(self, day: date) -> float:
        # fold=0: of a midnight that happens twice the first one; one that is skipped is the moment of the
        # jump.
        return datetime(day.year, day.month, day.day, tzinfo=self.zone).timestamp()
