"""Throughput and added latency of the gateway, with all layers on, off, and one by one, beside other proxies.

Real servers on loopback, one system at a time, each started anew for every repeat; the repeats of all systems are
interleaved, so that a slow minute of the machine falls on all of them.
"""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench import gateway_tables, prompts, systems
from bench.errors import BenchError
from bench.load import Load, Sample
from bench.patience import Patience
from bench.report import Part, Table
from bench.servers import Server, Spec, ask, running

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """How much is measured.

    Attributes:
        repeats: Starts of every system.
        seconds: Length of one run of the load.
        connections: Numbers of connections; 1 and 64 must be among them.
        one_by_one: Also each layer alone.
        one_worker: Also with one worker.
        body: ``varied`` or ``baseline`` (one constant body).
    """

    repeats: int = 3
    seconds: int = 2
    connections: tuple[int, ...] = (1, 16, 64, 256)
    one_by_one: bool = True
    one_worker: bool = True
    body: str = "varied"


QUICK = Plan(repeats=2, seconds=1, connections=(1, 64), one_by_one=False, one_worker=False)


@dataclass(frozen=True, slots=True)
class Case:
    """One system to be measured."""

    make: Callable[[], Spec]
    connections: tuple[int, ...]
    seconds: int


@dataclass(slots=True)
class Collected:
    """What the repeats brought."""

    samples: list[Sample]
    cold_starts: dict[str, list[float]]
    failures: list[str]


@dataclass(frozen=True, slots=True)
class Setting:
    """What a part is told beside its plan.

    Attributes:
        command: The command that repeats this, for the report.
        say: Told what happens while it happens.
        litellm: A Python that has litellm[proxy]; empty: not measured.
        patience: Seconds that may be spent on getting each run of the load into a quiet moment.
    """

    command: str
    say: Say
    litellm: str = ""
    patience: float = 0.0


def run(plan: Plan, setting: Setting) -> Part:
    """Measure.

    Args:
        plan: How much.
        setting: With what, and whom to tell.

    Raises:
        BenchError: Nothing can be measured at all: wrk or the compiler is missing, the mock upstream does not start.
    """
    began = time.monotonic()
    say = setting.say
    patience = Patience(setting.patience)
    found = Collected([], {}, [])
    with tempfile.TemporaryDirectory(prefix="sparkle-bench-") as temp:
        folder = Path(temp)
        bodies = prompts.varied() if plan.body == "varied" else prompts.constant()
        file = prompts.write(bodies, folder / "prompts.txt")
        one = bodies[0].numbered(0)
        with upstream(folder, one) as direct:
            bench = systems.Bench(folder, f"http://127.0.0.1:{direct.spec.port}/v1", setting.litellm)
            load = Load(file, direct.pids(), patience)
            expected = content(ask(direct.spec.port, one)[1])
            for repeat in range(plan.repeats):
                say(f"repeat {repeat + 1} of {plan.repeats}: {direct.spec.name}")
                load.repeat = repeat
                load.run(direct, 64, 1)
                found.samples += [load.run(direct, c, plan.seconds) for c in plan.connections]
                for case in _cases(plan, bench):
                    _measure(case, bench, load, bodies, expected, found, say)
    tables = gateway_tables.tables(found.samples, found.cold_starts, plan.connections)
    return Part(
        name="gateway",
        command=setting.command,
        seconds=time.monotonic() - began,
        tables=(*tables, *_void(found.samples)),
        figures=gateway_tables.figures(found.samples, found.cold_starts),
        failures=tuple(dict.fromkeys(found.failures)),
        samples=tuple(found.samples),
    )


@contextlib.contextmanager
def upstream(folder: Path, body: bytes) -> Generator[Server]:
    """The mock upstream, compiled and started."""
    with running(systems.mock(systems.build_mock(folder)), folder / "mock", body) as server:
        yield server


def content(answer: bytes) -> str:
    """The text of a chat completion.

    Raises:
        BenchError: It is none, or it did not come to its end.
    """
    try:
        choice = msgspec.json.decode(answer)["choices"][0]
        if choice["finish_reason"] == "stop":
            return str(choice["message"]["content"])
    except (msgspec.DecodeError, KeyError, IndexError, TypeError):
        pass
    raise BenchError(f"not the expected completion: {answer[:300].decode(errors='replace')}")


def _cases(plan: Plan, bench: systems.Bench) -> list[Case]:
    two = tuple(c for c in plan.connections if c in (1, 64))

    def sparkle(layers: tuple[str, ...], workers: int) -> Callable[[], Spec]:
        return lambda: systems.sparkle(bench, layers, workers)

    cases = [
        Case(lambda: systems.nginx(bench), plan.connections, plan.seconds),
        Case(lambda: systems.passthrough(bench), plan.connections, plan.seconds),
        Case(sparkle(systems.LAYERS, 2), plan.connections, plan.seconds),
        Case(sparkle((), 2), plan.connections, plan.seconds),
    ]
    if plan.one_worker:
        cases += [
            Case(lambda: systems.passthrough(bench, 1), two, plan.seconds),
            Case(sparkle(systems.LAYERS, 1), two, plan.seconds),
            Case(sparkle((), 1), two, plan.seconds),
        ]
    if plan.one_by_one:
        cases += [Case(sparkle((layer,), 2), two, plan.seconds) for layer in systems.LAYERS]
    if bench.litellm:
        cases.append(Case(lambda: systems.litellm(bench), two, max(4, plan.seconds)))
    return cases


def _measure(
    case: Case,
    bench: systems.Bench,
    load: Load,
    bodies: list[prompts.Body],
    expected: str,
    found: Collected,
    say: Say,
) -> None:
    """One start of one system; what fails is kept, and the others are measured all the same."""
    name = "a system"
    try:
        spec = case.make()
        name = spec.name
        say(f"  {name}")
        with running(spec, bench.workplace(name), bodies[0].numbered(0)) as server:
            if (got := content(ask(spec.port, bodies[0].numbered(0), spec.key)[1])) != expected:
                raise BenchError(f"{name} changed the answer: {got[:200]!r}")
            load.run(server, 64, 1)
            samples = [load.run(server, c, case.seconds, memory=c == 64) for c in case.connections]
            found.samples += samples
            found.cold_starts.setdefault(name, []).append(server.cold_start)
            if any(sample.errors for sample in samples):
                found.failures.append(f"{name}: {_first_refusal(server, bodies)}")
    except BenchError as exc:
        say(f"  not measured: {str(exc).splitlines()[0]}")
        found.failures.append(str(exc) if name in str(exc) else f"{name}: {exc}")


def _first_refusal(server: Server, bodies: list[prompts.Body]) -> str:
    """Why there were errors: the first body that is refused when asked alone (the texts are our own)."""
    for body in bodies:
        try:
            status, answer = ask(server.spec.port, body.numbered(0), server.spec.key)
        except OSError as exc:
            return f"errors under load; asked alone: {type(exc).__name__}"
        if status != 200:
            return f"{status} {answer[:400].decode(errors='replace')} for {body.head[-200:]!r}"
    return "errors under load, none when every text is asked alone"


def _void(samples: list[Sample]) -> list[Table]:
    rows = [(s.system, str(s.connections), str(s.requests), str(s.errors)) for s in samples if s.errors]
    title = "VOID: runs with errors, left out of every figure above"
    return [Table(title, ("system", "connections", "answers", "errors"), tuple(rows))] if rows else []
