"""Where the time of a request goes: profiles one gateway worker of the real ``sparkle serve`` under load.

Run: ``python -m bench.profile_gateway [--mode sample|calls] [--layers all|none|input,quota,...] [--stream]``
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import msgspec

from bench import gateway, profile_view, prompts, screen, systems
from bench.errors import BenchError
from bench.load import Load, Sample
from bench.patience import Patience
from bench.profile_worker import Recording
from bench.report import Table
from bench.servers import Server, Spec, running

_ROOT = Path(__file__).parent.parent
_WRITE_SECONDS = 30.0


def main() -> int:
    """Measure, profile, print; returns the exit code."""
    options = _options()
    named: dict[str, tuple[str, ...]] = {"all": systems.LAYERS, "none": ()}
    layers = named.get(options.layers) or tuple(filter(None, options.layers.replace("none", "").split(",")))
    try:
        plain, loaded, recording = profile(
            layers,
            options.mode,
            options.hertz,
            options.connections,
            options.seconds,
            stream=options.stream,
            patience=options.patience,
        )
    except BenchError as exc:
        print(f"bench.profile_gateway: {exc}", file=sys.stderr)
        return 1
    console = screen.console()
    screen.show(console, _summary(plain, loaded, recording))
    view = profile_view.sampled if options.mode == "sample" else profile_view.counted
    # wrk does not count the requests it has under way when it stops, but the worker still answers them.
    for table in view(recording, loaded.requests + loaded.connections, options.top):
        screen.show(console, table)
    return 0


def profile(
    layers: tuple[str, ...],
    mode: str,
    hertz: int,
    connections: int,
    seconds: int,
    *,
    stream: bool,
    patience: float = 0.0,
) -> tuple[Sample, Sample, Recording]:
    """Load one worker twice, without and with the profiler.

    Args:
        layers: Those that are on.
        mode: ``sample`` or ``calls``.
        hertz: Samples per second of CPU time.
        connections: Of the load.
        seconds: Length of each of the two runs.
        stream: Ask for streams.
        patience: Seconds to spend on finding a quiet moment for each run.

    Returns:
        The run without the profiler, the run with it, and what it recorded.

    Raises:
        BenchError: A server did not start, or answers were errors.
    """
    with tempfile.TemporaryDirectory(prefix="sparkle-bench-") as temp:
        folder = Path(temp)
        bodies = prompts.varied(stream=stream)
        file = prompts.write(bodies, folder / "prompts.txt")
        one = prompts.varied()[0].numbered(0)
        with gateway.upstream(folder, one) as direct:
            bench = systems.Bench(folder, f"http://127.0.0.1:{direct.spec.port}/v1")
            load = Load(file, direct.pids(), Patience(patience))
            out = bench.workplace("profile")
            program = (sys.executable, "-m", "bench.profile_worker", str(out), mode, str(hertz))
            argv, port, env = systems.sparkle_command(bench, layers, 1, program=program)
            name = f"Sparkle, {systems.describe_layers(layers)}, 1 worker"
            spec = Spec(name, argv, port, env={**env, "PYTHONPATH": str(_ROOT)}, start_seconds=30.0)
            with running(spec, bench.workplace("sparkle"), one) as server:
                load.run(server, connections, 2, once=True)
                plain = load.run(server, connections, seconds)
                worker = _worker(server, out)
                os.kill(worker, signal.SIGUSR1)
                loaded = load.run(server, connections, seconds, once=True)
                os.kill(worker, signal.SIGUSR2)
                recording = _recording(out / f"{worker}.json")
    if plain.errors or loaded.errors:
        raise BenchError(
            f"{plain.errors + loaded.errors} answers were errors: a profile of them means nothing"
        )
    return plain, loaded, recording


def _worker(server: Server, out: Path) -> int:
    alive = [int(path.stem) for path in out.glob("*.pid") if int(path.stem) in server.pids()]
    if len(alive) != 1:
        raise BenchError(f"expected one gateway worker, found {len(alive)}")
    return alive[0]


def _recording(path: Path) -> Recording:
    deadline = time.monotonic() + _WRITE_SECONDS
    while time.monotonic() < deadline:
        if path.exists():
            return msgspec.json.decode(path.read_bytes(), type=Recording)
        time.sleep(0.05)
    raise BenchError("the worker wrote no profile")


def _summary(plain: Sample, loaded: Sample, recording: Recording) -> Table:
    def cells(sample: Sample) -> tuple[str, ...]:
        noise = f"{sample.others:.0%}"
        return (
            f"{sample.rps:,.0f}",
            f"{sample.cpu_us:.1f}",
            f"{sample.p50_ms:.2f}",
            f"{sample.p99_ms:.2f}",
            noise,
        )

    requests = max(1, loaded.requests)
    samples = sum(stack.samples for stack in recording.stacks)
    runs = ", ".join(f"{count} of generation {i}" for i, count in enumerate(recording.gc_runs))
    return Table(
        f"{plain.system}, {plain.connections} connections",
        ("run", "requests/s", "CPU us/request", "p50 ms", "p99 ms", "others' CPU"),
        (("without the profiler", *cells(plain)), ("with it", *cells(loaded))),
        (
            f"Garbage collector: {recording.gc_seconds / requests * 1e6:.1f} us/request ({runs}); "
            "it counts for whoever it interrupted.",
            f"{samples:,} samples." if samples else "Every call was counted.",
        ),
    )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.profile_gateway", description=__doc__)
    parser.add_argument(
        "--mode", choices=("sample", "calls"), default="sample", help="sample stacks, or count calls"
    )
    parser.add_argument("--layers", default="all", help="all, none, or some of: " + ",".join(systems.LAYERS))
    parser.add_argument("--stream", action="store_true", help="ask for streams at full speed")
    parser.add_argument("--connections", type=int, default=32)
    parser.add_argument("--seconds", type=int, default=8, help="of each run")
    parser.add_argument(
        "--hertz",
        type=int,
        default=1000,
        help="samples per second of CPU time, as far as the kernel ticks that often",
    )
    parser.add_argument(
        "--patience", type=float, default=0, help="seconds to spend on finding a quiet moment"
    )
    parser.add_argument("--top", type=int, default=30, help="rows of the longer tables")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
