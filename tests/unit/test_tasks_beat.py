"""The beat fires each tick once, and after an outage what the entry says. Real ledger, a clock that the test moves."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from tests.support.clock import ManualClock

from sparkle.errors import ConfigurationError
from sparkle.settings_tasks import ScheduleSettings, TasksSettings
from sparkle.tasks.beat import Beat
from sparkle.tasks.ledger import Ledger
from sparkle.tasks.recurring import Recurring, all_recurring, recurring
from sparkle.tasks.registry import TaskRegistry, long_task
from sparkle.tasks.tasks import Tasks

NOON = datetime(2026, 11, 23, 12, tzinfo=UTC).timestamp()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
def ledger(tmp_path: Path, clock: ManualClock) -> Iterator[Ledger]:
    with Ledger.open(tmp_path, clock=clock) as opened:
        yield opened


def make_beat(ledger: Ledger, clock: ManualClock, owner: str = "b1", **entries: dict[str, Any]) -> Beat:
    known = TaskRegistry()

    @long_task("report", into=known)
    def report() -> None: ...

    settings = {
        name: ScheduleSettings(**dict[str, Any]({"task": "report", **entry}))
        for name, entry in entries.items()
    }
    mine: list[Recurring] = [entry for entry in all_recurring(settings) if entry.name in settings]
    tasks = Tasks(ledger, TasksSettings(), known=known)
    return Beat(tasks, mine, TasksSettings(), owner=owner, clock=clock)


def fired(ledger: Ledger) -> list[str]:
    return sorted(str(record.schedule) for record in ledger.find(limit=100).records)


def test_an_entry_begins_when_it_is_first_seen(ledger: Ledger, clock: ManualClock) -> None:
    beat = make_beat(ledger, clock, daily={"cron": "0 3 * * *"})
    beat.step()
    assert fired(ledger) == []  # this morning's tick is none of its business
    clock.advance(15 * 3600)
    beat.step()
    beat.step()
    assert fired(ledger) == ["daily@2026-11-24T03:00:00.000+00:00"]


def test_intervals_count_from_the_epoch_so_that_all_beats_agree(ledger: Ledger, clock: ManualClock) -> None:
    first = make_beat(ledger, clock, "b1", often={"every": 7})
    first.step()
    clock.advance(7)
    first.step()
    second = make_beat(ledger, clock, "b2", often={"every": 7})
    clock.advance(7)  # longer than the first one's lease of the role
    second.step()
    assert second.active
    assert len(fired(ledger)) == 2
    # The first one, back from a pause, does not know yet that it was replaced.
    first.active = True
    first._fire()  # pyright: ignore[reportPrivateUsage]  # what a process does that was frozen at this point
    assert len(fired(ledger)) == 2


def test_only_one_beat_is_active_and_the_other_takes_over(ledger: Ledger, clock: ManualClock) -> None:
    beats = [make_beat(ledger, clock, name, often={"every": 1}) for name in ("b1", "b2")]
    for beat in beats:
        beat.step()
    assert [beat.active for beat in beats] == [True, False]
    clock.advance(7)
    beats[1].step()
    assert beats[1].active
    beats[0].step()
    assert not beats[0].active


@pytest.mark.parametrize(("missed", "expected"), [("latest", 1), ("skip", 0)])
def test_what_was_missed_in_an_outage_is_caught_up_as_the_entry_says(
    ledger: Ledger, clock: ManualClock, missed: str, expected: int
) -> None:
    make_beat(ledger, clock, "b1", hourly={"cron": "@hourly", "missed": missed}).step()
    clock.advance(5 * 3600 + 600)
    later = make_beat(ledger, clock, "b2", hourly={"cron": "@hourly", "missed": missed})
    later.step()
    assert len(fired(ledger)) == expected
    clock.advance(3000 + 10)  # ten seconds after the hour: that is no outage
    later.step()
    assert fired(ledger)[-1] == "hourly@2026-11-23T18:00:00.000+00:00"
    assert len(fired(ledger)) == expected + 1


def test_a_wrong_entry_does_not_stop_the_others(
    ledger: Ledger, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    beat = make_beat(
        ledger,
        clock,
        a={"every": 10, "queue": "q" * 300},
        b={"every": 10},
    )
    beat.step()
    clock.advance(10)
    beat.step()
    assert [name.partition("@")[0] for name in fired(ledger)] == ["b"]
    assert "schedule a" in caplog.text


def test_what_was_fired_is_remembered_although_its_task_is_gone(ledger: Ledger, clock: ManualClock) -> None:
    make_beat(ledger, clock, daily={"cron": "0 3 * * *"}).step()
    clock.advance(16 * 3600)
    make_beat(ledger, clock, "b2", daily={"cron": "0 3 * * *"}).step()
    (record,) = ledger.find().records
    ledger.cancel(record.id)
    assert ledger.purge(ledger.now() + 1) == 1
    clock.advance(60)
    make_beat(ledger, clock, "b3", daily={"cron": "0 3 * * *"}).step()
    assert fired(ledger) == []


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({}, "cron or every"),
        ({"cron": "* * * * *", "every": 5}, "cron or every"),
        ({"cron": "61 * * * *"}, "minute"),
        ({"cron": "* * *"}, "five fields"),
        ({"cron": "0 0 31 2 *"}, "no day"),
        ({"every": 0.5}, "at least 1 second"),
        ({"cron": "@daily", "timezone": "Mars/Olympus"}, "time zone"),
    ],
)
def test_a_rule_that_makes_no_sense_is_refused_by_name(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=f"'nightly'.*{said}"):
        all_recurring({"nightly": ScheduleSettings(task="report", **entry)})


def test_settings_take_the_place_of_code_and_names_are_unique() -> None:
    recurring("test.unit.nightly", "report", cron="@daily")
    recurring("test.unit.nightly", "report", cron="@daily")  # the module was imported twice
    with pytest.raises(ConfigurationError, match="two schedules"):
        recurring("test.unit.nightly", "report", cron="@hourly")
    (entry,) = [
        entry
        for entry in all_recurring({"test.unit.nightly": ScheduleSettings(task="other", every=5)})
        if entry.name == "test.unit.nightly"
    ]
    assert entry.task == "other"
