"""Days and months begin where the operator lives."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from sparkle.errors import ConfigurationError
from sparkle.llm.quota.windows import Calendar


def at(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def hours(zone: str, moment: str) -> float:
    day = Calendar(zone).day(at(moment))
    assert day.start <= at(moment) < day.end
    return (day.end - day.start) / 3_600


@pytest.mark.parametrize(
    ("zone", "moment", "length"),
    [
        ("UTC", "2026-03-29T12:00:00+00:00", 24),
        ("Asia/Shanghai", "2026-03-29T23:59:59+08:00", 24),
        ("Europe/Berlin", "2026-03-29T12:00:00+02:00", 23),
        ("Europe/Berlin", "2026-10-25T12:00:00+01:00", 25),
        ("Australia/Lord_Howe", "2026-04-05T12:00:00+10:30", 24.5),
        # Clocks that change at midnight: a midnight that never comes, and one that comes twice.
        ("America/Santiago", "2026-09-06T12:00:00-03:00", 23),
        ("America/Santiago", "2026-04-04T12:00:00-03:00", 25),
        ("America/Havana", "2026-11-01T12:00:00-05:00", 25),
    ],
)
def test_a_day_has_its_true_length_when_clocks_change(zone: str, moment: str, length: float) -> None:
    assert hours(zone, moment) == length


@pytest.mark.parametrize(
    "zone", ["UTC", "Asia/Shanghai", "Europe/Berlin", "America/Santiago", "America/Havana", "Africa/Cairo"]
)
def test_every_moment_of_two_years_lies_in_one_day_and_days_leave_no_gap(zone: str) -> None:
    calendar = Calendar(zone)
    moment, end = at("2025-01-01T00:00:00+00:00"), at("2027-01-01T00:00:00+00:00")
    labels: set[str] = set()
    while moment < end:
        day = calendar.day(moment)
        assert day.start <= moment < day.end
        assert calendar.day(day.end).start == day.end
        assert calendar.day(day.end - 0.001).label == day.label
        assert day.label not in labels
        labels.add(day.label)
        moment = day.end


def test_a_month_begins_with_its_first_local_day() -> None:
    month = Calendar("Asia/Shanghai").month(at("2026-02-28T17:00:00+00:00"))
    assert month.label == "2026-03"
    assert month.start == at("2026-03-01T00:00:00+08:00")
    assert month.end == at("2026-04-01T00:00:00+08:00")


def test_december_ends_in_january() -> None:
    month = Calendar("UTC").month(at("2026-12-31T23:59:59+00:00"))
    assert datetime.fromtimestamp(month.end, UTC) == datetime(2027, 1, 1, tzinfo=UTC)


@pytest.mark.parametrize("zone", ["Mars/Olympus", "../etc/passwd", "", "UTC\x00"])
def test_an_unknown_timezone_is_a_configuration_error(zone: str) -> None:
    with pytest.raises(ConfigurationError, match="timezone"):
        Calendar(zone)
