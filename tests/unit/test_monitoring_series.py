"""What is exposed: bounded labels, histograms that add up, names as the conventions say."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families
from tests.support.monitoring import Desk, whole_call

from sparkle.llm.monitoring.metrics import MAX_MODELS, ModelLabels
from sparkle.series import Exposition


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_arbitrary_model_name_makes_no_series(desk: Desk) -> None:
    for i in range(300):
        desk.begin(model=f"invented-{i}").finish("invalid", 404)
    text = desk.monitor.render_metrics()[0].decode()
    assert "invented" not in text
    assert desk.sample("sparkle_requests_total", operation="chat", model="other", outcome="invalid") == 300


def test_model_labels_are_bounded_and_plain() -> None:
    labels = ModelLabels()
    labels.know(["a b", "x" * 200, "", 'evil"}', "org/model-1.5:latest"])
    labels.know(f"m{i}" for i in range(500))
    assert labels("org/model-1.5:latest") == "org/model-1.5:latest"
    assert [labels(name) for name in ("a b", "x" * 200, "", 'evil"}', "m499")] == ["other"] * 5
    assert labels(f"m{MAX_MODELS - 2}") == f"m{MAX_MODELS - 2}"


def test_a_metric_has_no_more_series_than_it_may() -> None:
    exposition = Exposition()
    family = exposition.counter("sparkle_test_total", "Test.", ("a",), limit=3)
    for i in range(10):
        family(str(i)).inc()
    text = exposition.render()[0].decode()
    assert 'sparkle_test_total{a="other"} 7.0' in text


@given(st.lists(st.floats(0, 1e4), max_size=30))
def test_a_histogram_says_what_was_observed(values: list[float]) -> None:
    exposition = Exposition()
    bounds = (0.1, 1.0, 10.0)
    histogram = exposition.histogram("sparkle_test_seconds", "Test.", bounds)()
    for i, value in enumerate(values):
        histogram.observe(value)
        if i % 7 == 0:
            exposition.flush()
    text = exposition.render()[0].decode()
    for bound in bounds:
        expected = sum(value <= bound for value in values)
        assert f'sparkle_test_seconds_bucket{{le="{bound}"}} {float(expected)}' in text
    assert f"sparkle_test_seconds_count {float(len(values))}" in text


def test_what_a_parent_counted_before_a_fork_is_not_counted_again(monkeypatch: pytest.MonkeyPatch) -> None:
    exposition = Exposition()
    counter = exposition.counter("sparkle_test_total", "Test.")()
    histogram = exposition.histogram("sparkle_test_seconds", "Test.", (1.0,))()
    gauge = exposition.gauge("sparkle_level", "Test.", over_workers="livesum")()
    gauge.value = 3
    counter.inc(5)
    histogram.observe(0.5)
    monkeypatch.setattr("sparkle.series.os.getpid", lambda: -1)
    shown = exposition.render()[0].decode()
    assert "sparkle_test_total 0.0" in shown
    assert "sparkle_test_seconds_count 0.0" in shown
    assert "sparkle_level 3.0" in shown


def test_no_metric_is_named_against_the_conventions(desk: Desk) -> None:
    whole_call(desk)
    forbidden = {"user", "team", "key", "prompt", "request_id", "task"}
    for family in text_string_to_metric_families(desk.monitor.render_metrics()[0].decode()):
        assert family.name.startswith("sparkle_")
        assert family.documentation.endswith(".") or ":" in family.documentation
        assert not any(set(sample.labels) & forbidden for sample in family.samples)
