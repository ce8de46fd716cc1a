"""The gateway's samples as tables and figures. A sample with errors counts nowhere."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence

from bench.load import Sample
from bench.patience import QUIET
from bench.report import Table, median, number, spread

DIRECT = "direct (mock upstream)"
ALL_ON = "Sparkle, all layers on, 2 workers"
ALL_OFF = "Sparkle, all layers off, 2 workers"
_REFERENCES = (
    ("x pass-through", "pass-through, 2 workers"),
    ("x nginx", "nginx, 2 workers"),
    ("x LiteLLM", "LiteLLM proxy, 2 workers"),
)


def tables(
    samples: Sequence[Sample], cold_starts: Mapping[str, list[float]], connections: Sequence[int]
) -> list[Table]:
    """Throughput, latency, cost, and what each layer adds."""
    good = [sample for sample in samples if not sample.errors]
    systems = list(dict.fromkeys(sample.system for sample in samples))
    columns = tuple(str(c) for c in connections)
    throughput = Table(
        "Gateway: requests/s by connections, median (lowest-highest) of the repeats",
        ("system", *columns, *(f"{title} (64)" for title, _ in _REFERENCES)),
        tuple(
            (
                system,
                *(spread(_values(good, system, c, lambda s: s.rps)) for c in connections),
                *(spread(ratios(good, system, other)) for _, other in _REFERENCES),
            )
            for system in systems
        ),
        (
            "A closed loop: every connection sends its next request when its answer is there. "
            "Ratios are formed within a repeat.",
        ),
    )
    latency = Table(
        "Gateway: time to the complete answer in ms, p50 / p95 / p99 (medians of the repeats)",
        ("system", "p50 added at 1", *columns),
        tuple(
            (
                system,
                "-" if system == DIRECT else spread(added_p50(good, system)),
                *(_percentiles(good, system, c) for c in connections),
            )
            for system in systems
        ),
        ("Added: p50 at 1 connection less that of the upstream asked directly in the same repeat.",),
    )
    cost = Table(
        "Gateway: what it costs, under load at 64 connections",
        ("system", "CPU us/request", "RSS MB", "PSS MB", "cold start s", "others' CPU"),
        tuple(
            (
                system,
                spread(_values(good, system, 64, lambda s: s.cpu_us)),
                spread([x for x in _values(good, system, 64, lambda s: s.rss_mb) if x]),
                spread([x for x in _values(good, system, 64, lambda s: s.pss_mb) if x]),
                spread(cold_starts.get(system, [])),
                _noise(good, system),
            )
            for system in systems
        ),
        (
            "CPU of the system's own processes: the steadiest figure on a busy machine. "
            "RSS counts shared pages once per process, PSS once.",
            "Others' CPU: share of the machine that anything outside the measurement took; "
            "above 5% (marked !) compare with care.",
        ),
    )
    return [throughput, latency, cost, *_layers(good, systems)]


def figures(samples: Sequence[Sample], cold_starts: Mapping[str, list[float]]) -> dict[str, float]:
    """The figures that have targets, by the names bench/targets.yaml uses."""
    good = [sample for sample in samples if not sample.errors]
    found = {
        "sparkle_rps_64": median(_values(good, ALL_ON, 64, lambda s: s.rps)),
        "sparkle_off_rps_64": median(_values(good, ALL_OFF, 64, lambda s: s.rps)),
        "sparkle_times_litellm": median(ratios(good, ALL_ON, "LiteLLM proxy, 2 workers")),
        "sparkle_times_passthrough": median(ratios(good, ALL_ON, "pass-through, 2 workers")),
        "sparkle_added_p50_ms": median(added_p50(good, ALL_ON)),
        "sparkle_cpu_us": median(_values(good, ALL_ON, 64, lambda s: s.cpu_us)),
        "sparkle_rss_mb": median(_values(good, ALL_ON, 64, lambda s: s.rss_mb)),
        "sparkle_cold_start_s": median(cold_starts.get(ALL_ON, [])),
    }
    return {name: value for name, value in found.items() if value is not None}


def ratios(samples: Iterable[Sample], system: str, other: str, connections: int = 64) -> list[float]:
    """Requests/s of one system over those of another, repeat by repeat."""
    return [a / b for a, b in _pairs(samples, system, other, connections, lambda s: s.rps) if b]


def added_p50(samples: Iterable[Sample], system: str) -> list[float]:
    """Milliseconds that a system adds to the median answer at 1 connection, repeat by repeat."""
    return [a - b for a, b in _pairs(samples, system, DIRECT, 1, lambda s: s.p50_ms)]


def _layers(samples: Sequence[Sample], systems: Sequence[str]) -> list[Table]:
    """What each layer adds in CPU time and latency over all layers off; empty when they were not measured alone."""
    alone = [s for s in systems if s.startswith("Sparkle, only ")]
    if not alone:
        return []

    def added(system: str, connections: int, of: Callable[[Sample], float]) -> str:
        return spread([a - b for a, b in _pairs(samples, system, ALL_OFF, connections, of)])

    rows = tuple(
        (system, added(system, 64, lambda s: s.cpu_us), added(system, 1, lambda s: s.p50_ms * 1000))
        for system in (*alone, ALL_ON)
    )
    title = "Gateway: what each layer adds over all layers off, 2 workers"
    return [Table(title, ("layers", "CPU us/request (64)", "p50 at 1 connection, us"), rows)]


def _values(
    samples: Iterable[Sample], system: str, connections: int, of: Callable[[Sample], float]
) -> list[float]:
    return [of(s) for s in samples if s.system == system and s.connections == connections]


def _pairs(
    samples: Iterable[Sample], one: str, other: str, connections: int, of: Callable[[Sample], float]
) -> list[tuple[float, float]]:
    """The same figure of two systems, where both have it in the same repeat."""
    values = {(s.system, s.repeat): of(s) for s in samples if s.connections == connections}
    mine = [(repeat, value) for (system, repeat), value in values.items() if system == one]
    return [(value, values[other, repeat]) for repeat, value in mine if (other, repeat) in values]


def _percentiles(samples: Sequence[Sample], system: str, connections: int) -> str:
    chosen = [s for s in samples if s.system == system and s.connections == connections]
    if not chosen:
        return "-"
    middle = (
        statistics.median(values)
        for values in zip(*((s.p50_ms, s.p95_ms, s.p99_ms) for s in chosen), strict=True)
    )
    return " / ".join(number(value) for value in middle)


def _noise(samples: Iterable[Sample], system: str) -> str:
    share = max((s.others for s in samples if s.system == system), default=0.0)
    return f"{share:.0%}" + (" !" if share > QUIET else "")
