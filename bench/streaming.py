"""Streams: when the first word comes, whether each piece comes when it is written, and how many streams a second.

64 connections that begin over 1.2 s ask for answers of 60 chunks with 20 ms between them: what is measured is the
delay, not the throughput. Then the same with an upstream that writes as fast as it can.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import gateway, machine, prompts, systems
from bench.errors import BenchError
from bench.gateway import Setting
from bench.patience import Patience
from bench.report import Part, Table, median, number, spread
from bench.servers import Server, Spec, running
from bench.stream_client import StreamResult

DIRECT = "direct (mock upstream)"
ALL_ON = "Sparkle, all layers on, 2 workers"
ALL_OFF = "Sparkle, all layers off, 2 workers"
CONNECTIONS = 64
PIECES = 60
"""What bench/mock_upstream.c writes."""
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured: starts of every system, streams per connection at 20 ms and at full speed."""

    repeats: int = 3
    slow_requests: int = 2
    fast_requests: int = 20


QUICK = Plan(repeats=1, slow_requests=1, fast_requests=8)


@dataclass(frozen=True, slots=True)
class Measured:
    """One start of one system."""

    system: str
    repeat: int
    slow: StreamResult
    fast: StreamResult
    cpu_us: float
    """CPU microseconds of the system's own processes per piece of the upstream, at full speed."""


def run(plan: Plan, setting: Setting) -> Part:
    """Measure; arguments and errors as in :func:`bench.gateway.run`."""
    began = time.monotonic()
    say = setting.say
    patience = Patience(setting.patience)
    found: list[Measured] = []
    failures: list[str] = []
    with tempfile.TemporaryDirectory(prefix="sparkle-bench-") as temp:
        folder = Path(temp)
        slow = prompts.write(prompts.varied(model=prompts.SLOW_MODEL, stream=True), folder / "slow.txt")
        fast = prompts.write(prompts.varied(stream=True), folder / "fast.txt")
        one = prompts.varied()[0].numbered(0)
        with gateway.upstream(folder, one) as direct:
            bench = systems.Bench(folder, f"http://127.0.0.1:{direct.spec.port}/v1", setting.litellm)
            for repeat in range(plan.repeats):
                say(f"repeat {repeat + 1} of {plan.repeats}: {direct.spec.name}")
                reference = _measure(direct, plan, repeat, slow, fast, patience)
                found.append(reference)
                for make in _systems(bench):
                    name = "a system"
                    try:
                        spec = make()
                        name = spec.name
                        say(f"  {name}")
                        with running(spec, bench.workplace(name), one) as server:
                            measured = _measure(server, plan, repeat, slow, fast, patience)
                        _check(measured, reference)
                        found.append(measured)
                    except BenchError as exc:
                        say(f"  not measured: {str(exc).splitlines()[0]}")
                        failures.append(str(exc) if name in str(exc) else f"{name}: {exc}")
    return Part(
        name="streaming",
        command=setting.command,
        seconds=time.monotonic() - began,
        tables=(table(found),),
        figures=figures(found),
        failures=tuple(dict.fromkeys(failures)),
    )


def table(found: Sequence[Measured]) -> Table:
    """Delay and throughput by system."""
    rows: list[tuple[str, ...]] = []
    for system in dict.fromkeys(m.system for m in found):
        mine = [m for m in found if m.system == system]
        rows.append(
            (
                system,
                spread([m.slow.ttft_p50 for m in mine]),
                _middle([m.slow.ttft_p95 for m in mine]),
                _middle([m.slow.ttft_p99 for m in mine]),
                _middle([m.slow.total_p50 for m in mine]),
                f"{min(m.slow.pieces_min for m in mine)}",
                f"{min(m.slow.alone for m in mine):.1%}",
                f"{max(m.slow.largest_burst for m in mine)}",
                spread([m.fast.per_second for m in mine]),
                _middle([m.fast.ttft_p50 for m in mine]),
                spread([m.cpu_us for m in mine]),
            )
        )
    return Table(
        f"Streams: {CONNECTIONS} connections; 20 ms between chunks (left), full speed (right); times in ms",
        (
            "system",
            "first text p50",
            "p95",
            "p99",
            "total p50",
            "pieces",
            "alone",
            "burst",
            "streams/s",
            "first text p50",
            "CPU us/piece",
        ),
        tuple(rows),
        (
            f"The upstream writes {PIECES} pieces. Pieces: fewest that reached the client. Alone: share that came in a "
            "read of its own. Burst: most that came in one read.",
        ),
    )


def figures(found: Sequence[Measured]) -> dict[str, float]:
    """The figures that have targets."""
    on = {m.repeat: m for m in found if m.system == ALL_ON}
    off = {m.repeat: m for m in found if m.system == ALL_OFF}
    direct = {m.repeat: m for m in found if m.system == DIRECT}
    values = {
        "sparkle_ttft_p50_ms": median(m.slow.ttft_p50 for m in on.values()),
        "sparkle_ttft_on_off": median(on[r].slow.ttft_p50 / off[r].slow.ttft_p50 for r in on if r in off),
        "sparkle_alone_over_direct": median(
            on[r].slow.alone / direct[r].slow.alone for r in on if r in direct
        ),
        "sparkle_streams_per_second": median(m.fast.per_second for m in on.values()),
    }
    return {name: value for name, value in values.items() if value is not None}


def _systems(bench: systems.Bench) -> list[Callable[[], Spec]]:
    made: list[Callable[[], Spec]] = [
        lambda: systems.nginx(bench),
        lambda: systems.passthrough(bench),
        lambda: systems.sparkle(bench),
        lambda: systems.sparkle(bench, ()),
    ]
    if bench.litellm:
        made.append(lambda: systems.litellm(bench))
    return made


def _measure(server: Server, plan: Plan, repeat: int, slow: Path, fast: Path, patience: Patience) -> Measured:
    _client(server, fast, 4, 0.0, first=0)  # warms up
    patience.begin()
    patience.wait()
    delay = _client(server, slow, plan.slow_requests, 1.2, first=repeat * 10_000)
    patience.begin()
    patience.wait()
    before = machine.cpu_seconds(server.pids())
    throughput = _client(server, fast, plan.fast_requests, 0.0, first=repeat * 10_000 + 5_000)
    pieces = throughput.answers * throughput.pieces_p50
    return Measured(
        server.spec.name, repeat, delay, throughput, machine.cpu_since(before) / max(1, pieces) * 1e6
    )


def _client(server: Server, file: Path, requests: int, stagger: float, *, first: int) -> StreamResult:
    argv = [sys.executable, "-m", "bench.stream_client", server.url, "--prompts", str(file)]
    argv += ["--connections", str(CONNECTIONS), "--requests", str(requests), "--stagger", str(stagger)]
    argv += ["--first", str(first), "--key", server.spec.key]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=180, cwd=_ROOT)
    if done.returncode != 0:
        raise BenchError(f"the streaming client failed: {done.stderr.strip()[-400:]}")
    return msgspec.json.decode(done.stdout, type=StreamResult)


def _check(measured: Measured, reference: Measured) -> None:
    for result in (measured.slow, measured.fast):
        if result.errors:
            raise BenchError(f"{result.errors} of {result.answers + result.errors} streams failed: void")
        if result.texts != reference.slow.texts:
            raise BenchError(
                f"the text differs from what the upstream wrote: {[t[:80] for t in result.texts]}"
            )


def _middle(values: Sequence[float]) -> str:
    middle = median(values)
    return "-" if middle is None else number(middle)
