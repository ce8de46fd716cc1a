"""A record that cannot be made or written is counted, and stops a call only where the policy says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.monitoring import Desk

from sparkle.errors import AuditUnavailableError
from sparkle.llm.policy import MonitoringPolicy, Policy
from sparkle.llm.usage import Principal


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


@pytest.mark.parametrize("user", ["学生", "a\ud800", "x" * 10_000, "a\nb", ""])
def test_any_user_name_fits_a_line(desk: Desk, user: str) -> None:
    desk.begin(principal=Principal(user)).finish("ok", 200)
    assert len(desk.line()["user"]) <= 256


def test_a_surrogate_in_a_field_of_ours_still_makes_a_line(desk: Desk) -> None:
    desk.begin(principal=Principal("a", team="\ud800")).finish("ok", 200)
    assert desk.line()["user"] == "a"


def test_a_record_that_cannot_be_made_is_counted_not_raised(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    record = desk.begin()
    record.used = "not a usage"  # type: ignore[assignment]  what a defect elsewhere could leave
    record.finish("ok", 200)
    assert desk.sample("sparkle_monitor_errors_total") == 2  # the line and the counts
    assert "AttributeError" in caplog.text
    assert desk.sample("sparkle_inflight_requests") == 0


def blocked_folder(desk: Desk) -> None:
    desk.folder.parent.mkdir(exist_ok=True)
    desk.folder.write_text("a file where the folder should be")


def test_without_an_audit_file_calls_go_on_and_the_loss_is_counted(desk: Desk) -> None:
    blocked_folder(desk)
    desk.begin().finish("ok", 200)
    desk.begin().finish("ok", 200)
    assert desk.sample("sparkle_audit_write_errors_total") == 1
    desk.audit.close()
    assert desk.sample("sparkle_audit_dropped_total") == 2


def test_a_policy_that_demands_records_refuses_calls_until_they_can_be_written(desk: Desk) -> None:
    desk.monitor.use_policy(Policy(monitoring=MonitoringPolicy(on_error="closed")))
    blocked_folder(desk)
    desk.begin().finish("ok", 200)
    with pytest.raises(AuditUnavailableError):
        desk.begin()
    with pytest.raises(AuditUnavailableError):
        desk.monitor.ready()
    desk.folder.unlink()
    desk.clock.advance(1)
    desk.monitor.flush()
    desk.begin().finish("ok", 200)
    assert len(desk.lines()) == 2
