"""Load on one system with wrk, and what came of it."""

from __future__ import annotations

import os
import resource
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

from bench import machine
from bench.errors import BenchError
from bench.patience import QUIET, Patience
from bench.servers import Server, need_tool

_SCRIPT = Path(__file__).with_name("post.lua")
_MEMORY_AT = 0.8
"""Where in a run memory is read, as a share of its length."""


class WrkResult(Struct, frozen=True, forbid_unknown_fields=True):
    """The line that bench/post.lua prints. Times are milliseconds."""

    rps: float
    requests: int
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    bad_status: int
    connect: int
    read: int
    write: int
    timeout: int


@dataclass(frozen=True, slots=True)
class Sample:
    """One run of the load against one system.

    Attributes:
        system: Name of the system.
        repeat: In which repeat; samples of different systems are compared within one.
        connections: Connections held open; each sends its next request when its answer is there.
        rps: Answers per second.
        p50_ms, p95_ms, p99_ms, max_ms: Time to the complete answer.
        requests: Answers counted.
        errors: Answers that were not 2xx and connections that failed. Not 0: the sample is void.
        cpu_us: CPU microseconds that the system itself (all its processes) spent per request.
        others: Share of the machine's CPU that was spent by processes outside the measurement (0 to 1).
        rss_mb, pss_mb: Memory near the end of the run; 0 where it was not read.
    """

    system: str
    repeat: int
    connections: int
    rps: float
    p50_ms: float
    p95_ms: float
    p99_ms: float
    max_ms: float
    requests: int
    errors: int
    cpu_us: float
    others: float
    rss_mb: float = 0.0
    pss_mb: float = 0.0


class Load:
    """Runs wrk with texts that never come twice.

    Args:
        prompts: File written by :func:`bench.prompts.write`.
        upstream: Process ids of the mock upstream, whose CPU time is part of the measurement.
        patience: How long to wait for a quiet machine.
    """

    def __init__(self, prompts: Path, upstream: list[int], patience: Patience | None = None) -> None:
        self._patience = patience or Patience(0)
        self._wrk = need_tool("wrk", "wrk")
        self._prompts = prompts
        self._upstream = upstream
        self._serial = 0
        self.repeat = 0
        """Written into the samples."""

    def run(
        self, server: Server, connections: int, seconds: int, *, memory: bool = False, once: bool = False
    ) -> Sample:
        """Load one system.

        Where patience was asked for, the run waits for a quiet moment, and one that others disturbed is repeated while
        patience is left: the least disturbed counts, however its figures are. Errors count at once.

        Args:
            server: Whom.
            connections: How many at a time.
            seconds: For how long (whole seconds, as wrk takes them).
            memory: Also read the system's memory near the end of the run.
            once: Never repeat a run that was disturbed.

        Raises:
            BenchError: wrk failed.
        """
        self._patience.begin()
        best: Sample | None = None
        while best is None or not (once or best.errors or best.others <= QUIET or self._patience.spent()):
            self._patience.wait()
            sample = self._once(server, connections, seconds, memory=memory)
            best = sample if best is None or sample.errors or sample.others < best.others else best
        return best

    def _once(self, server: Server, connections: int, seconds: int, *, memory: bool) -> Sample:
        argv = [self._wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s"]
        argv += ["-s", str(_SCRIPT), server.url]
        env = {"PATH": os.environ.get("PATH", ""), "PROMPTS": str(self._prompts), "KEY": server.spec.key}
        env["FIRST"] = str(self._serial)
        pids = server.pids()
        system, upstream = (
            machine.cpu_seconds(pids),
            machine.cpu_seconds([p for p in self._upstream if p not in pids]),
        )
        ours, busy, began = _own_cpu(), machine.busy_seconds(), time.perf_counter()
        read = machine.Memory(0.0, 0.0, 0)
        with subprocess.Popen(argv, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as wrk:
            try:
                if memory:
                    time.sleep(seconds * _MEMORY_AT)
                    read = machine.memory(server.pids())
                output = wrk.communicate(timeout=seconds + 60)[0].decode(errors="replace")
            except BaseException:
                wrk.kill()
                raise
        elapsed = time.perf_counter() - began
        cpu = machine.cpu_since(system)
        others = machine.busy_seconds() - busy - (_own_cpu() - ours) - cpu - machine.cpu_since(upstream)
        result = parse(output)
        self._serial += result.requests + connections
        return Sample(
            system=server.spec.name,
            repeat=self.repeat,
            connections=connections,
            rps=result.rps,
            p50_ms=result.p50_ms,
            p95_ms=result.p95_ms,
            p99_ms=result.p99_ms,
            max_ms=result.max_ms,
            requests=result.requests,
            errors=result.bad_status + result.connect + result.read + result.write + result.timeout,
            cpu_us=cpu / max(1, result.requests) * 1e6,
            others=max(0.0, others / elapsed / (os.cpu_count() or 1)),
            rss_mb=read.rss_mb,
            pss_mb=read.pss_mb,
        )


def parse(output: str) -> WrkResult:
    """Find the result in wrk's output.

    Raises:
        BenchError: There is none; the message holds the output's end.
    """
    for line in output.splitlines():
        if line.startswith("RES "):
            return msgspec.json.decode(line[4:], type=WrkResult)
    raise BenchError(f"wrk gave no result: {output.strip()[-400:]}")


def _own_cpu() -> float:
    """CPU seconds of this process and of those children that have ended and were waited for (wrk)."""
    total = 0.0
    for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN):
        usage = resource.getrusage(who)
        total += usage.ru_utime + usage.ru_stime
    return total
