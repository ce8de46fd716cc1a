"""The benchmarks' arithmetic: what a reader of a table relies on."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from bench import gateway_tables, render, report, rooms, streaming
from bench.__main__ import PARTS
from bench.errors import BenchError
from bench.gateway import content
from bench.load import Sample, parse
from bench.report import Part, Run, Table, Target
from bench.stream_client import StreamResult
from bench.streaming import Measured


def sample(
    system: str, repeat: int, connections: int = 64, *, rps: float = 100.0, p50: float = 1.0, errors: int = 0
) -> Sample:
    return Sample(system, repeat, connections, rps, p50, 2.0, 3.0, 4.0, 1000, errors, 50.0, 0.0, 90.0, 60.0)


PASS = "pass-through, 2 workers"


def test_a_run_with_errors_counts_nowhere() -> None:
    samples = [
        sample(gateway_tables.ALL_ON, 0, rps=9999, errors=1),
        sample(gateway_tables.ALL_ON, 1, rps=400),
    ]
    assert gateway_tables.figures(samples, {})["sparkle_rps_64"] == 400


def test_a_system_that_only_failed_has_no_figures() -> None:
    samples = [sample(gateway_tables.ALL_ON, 0, errors=3)]
    assert gateway_tables.figures(samples, {}) == {}


def test_ratios_are_formed_within_a_repeat() -> None:
    samples = [
        sample(gateway_tables.ALL_ON, 0, rps=50),
        sample(gateway_tables.ALL_ON, 2, rps=300),
        sample(PASS, 0, rps=100),
        sample(PASS, 1, rps=7),
        sample(PASS, 2, rps=200),
    ]
    assert gateway_tables.ratios(samples, gateway_tables.ALL_ON, PASS) == [0.5, 1.5]


def test_added_latency_is_the_difference_to_the_upstream_at_one_connection() -> None:
    samples = [
        sample(gateway_tables.DIRECT, 0, 1, p50=0.25),
        sample(gateway_tables.ALL_ON, 0, 1, p50=0.75),
        sample(gateway_tables.ALL_ON, 0, 64, p50=9.0),
    ]
    assert gateway_tables.added_p50(samples, gateway_tables.ALL_ON) == [0.5]


def test_every_table_has_a_cell_for_every_column() -> None:
    samples = [
        sample(system, repeat, c)
        for system in (
            gateway_tables.DIRECT,
            PASS,
            gateway_tables.ALL_ON,
            gateway_tables.ALL_OFF,
            "Sparkle, only input, 2 workers",
        )
        for repeat in (0, 1)
        for c in (1, 64)
    ]
    tables = gateway_tables.tables(samples, {gateway_tables.ALL_ON: [0.5, 0.7]}, (1, 64))
    assert len(tables) == 4
    for table in tables:
        assert {len(row) for row in table.rows} == {len(table.columns)}


def test_the_shipped_targets_have_one_bound_each_and_known_parts() -> None:
    found = report.targets()
    assert found
    assert {target.part for target in found} <= set(PARTS)


@pytest.mark.parametrize(
    ("figures", "outcome"),
    [
        ({"sparkle_rps_64": 8000.0}, "reached, the next one too"),
        ({"sparkle_rps_64": 4000.0}, "reached"),
        ({"sparkle_rps_64": 3999.0}, "missed"),
        ({}, "-"),
    ],
)
def test_a_target_is_reached_missed_or_not_measured(figures: dict[str, float], outcome: str) -> None:
    verdict = report.judge(Part("gateway", "x", 1.0, (), figures))
    assert verdict is not None
    row = next(row for row in verdict.rows if row[0].startswith("requests/s, all layers"))
    assert row[-1] == outcome


def test_a_smaller_figure_is_better_where_the_target_is_a_most() -> None:
    target = Target("gateway", "x", "x", most=1.0)
    assert target.reached(0.9, 1.0)
    assert not target.reached(1.1, 1.0)


@pytest.mark.parametrize(
    ("value", "shown"),
    [(12345.6, "12,346"), (105.4, "105"), (12.34, "12.3"), (1.234, "1.23"), (0.01234, "0.0123"), (0.0, "0")],
)
def test_numbers_keep_three_significant_digits(value: float, shown: str) -> None:
    assert report.number(value) == shown


def test_repeats_show_their_median_and_their_spread() -> None:
    assert report.spread([30.0, 10.0, 20.0]) == "20 (10-30)"
    assert report.spread([5.0]) == "5"
    assert report.spread([]) == "-"


def test_wrks_line_is_found_among_its_chatter() -> None:
    line = (
        'RES {"rps":10.5,"requests":21,"p50_ms":1.0,"p95_ms":2.0,"p99_ms":3.0,"max_ms":4.0,'
        '"bad_status":1,"connect":0,"read":0,"write":0,"timeout":0}'
    )
    assert parse(f"Running 2s test\n\n{line}\n").rps == 10.5


def test_no_result_of_wrk_is_an_error_that_shows_what_it_said() -> None:
    with pytest.raises(BenchError, match="unable to connect"):
        parse("unable to connect to 127.0.0.1:1 Connection refused")


def test_an_answer_that_was_cut_off_is_not_taken_for_an_answer() -> None:
    whole = b'{"choices":[{"message":{"content":"hello"},"finish_reason":"stop"}]}'
    assert content(whole) == "hello"
    for broken in (whole.replace(b"stop", b"content_filter"), b"", b"{}", b"[]", b'{"choices":[]}'):
        with pytest.raises(BenchError):
            content(broken)


def stream(ttft: float, alone: float) -> StreamResult:
    return StreamResult(64, 0, 100.0, ttft, ttft, ttft, 1200.0, 1201.0, 60, 60.0, alone, 1, ["x"])


def test_streams_are_compared_within_a_repeat_and_shown_with_all_columns() -> None:
    found = [
        Measured(streaming.DIRECT, 0, stream(20, 0.8), stream(1, 1), 5.0),
        Measured(streaming.ALL_ON, 0, stream(22, 0.4), stream(1, 1), 5.0),
        Measured(streaming.ALL_OFF, 0, stream(11, 0.8), stream(1, 1), 5.0),
        Measured(streaming.ALL_ON, 1, stream(40, 0.8), stream(1, 1), 5.0),
    ]
    figures = streaming.figures(found)
    assert figures["sparkle_ttft_on_off"] == 2
    assert figures["sparkle_alone_over_direct"] == 0.5
    table = streaming.table(found)
    assert {len(row) for row in table.rows} == {len(table.columns)}


def a_run() -> Run:
    table = Table("T", ("what", "figure"), (("a | b", "1"),), ("A note.",))
    part = Part(
        "gateway",
        "python -m bench gateway",
        12.0,
        (table,),
        {"sparkle_rps_64": 5000.0},
        ("LiteLLM: no\n| trace",),
    )
    return Run("2026-01-01T00:00:00Z", {"CPU": "2 x example"}, (part,))


def test_a_run_survives_its_file() -> None:
    assert msgspec.json.decode(msgspec.json.encode(a_run()), type=Run) == a_run()


def test_rendering_replaces_what_stands_between_the_markers_and_nothing_else() -> None:
    page = f"before\n{render.BEGIN}\nFORMER\n{render.END}\nafter\n"
    once = render.place(page, render.markdown(a_run()))
    assert once.startswith(f"before\n{render.BEGIN}\n")
    assert once.endswith(f"{render.END}\nafter\n")
    assert "FORMER" not in once
    assert "| a \\| b | 1 |" in once
    assert "reached" in once
    assert "trace" not in once, "only the first line of a failure is for a page"
    assert render.place(once, render.markdown(a_run())) == once


@pytest.mark.parametrize(
    "page", ["", render.BEGIN, f"{render.END}{render.BEGIN}", f"{render.BEGIN}{render.END}" * 2]
)
def test_a_page_without_one_place_for_results_is_refused(page: str) -> None:
    with pytest.raises(ValueError, match="one place"):
        render.place(page, "x")


def test_a_module_that_cannot_be_measured_says_why() -> None:
    with pytest.raises(BenchError, match="no_such_part"):
        rooms.measure("bench.no_such_part", quick=True)


def test_the_benchmarks_page_has_its_place_for_results() -> None:
    page = Path(__file__).parents[2] / "docs" / "benchmarks.md"
    assert "x" in render.place(page.read_text(encoding="utf-8"), "x")
