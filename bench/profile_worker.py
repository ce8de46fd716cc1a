"""Runs ``sparkle`` so that its gateway worker can be profiled from outside.

``python -m bench.profile_worker FOLDER sample|calls HERTZ serve ...`` is ``sparkle serve ...``, except that every
forked worker leaves its process id in FOLDER, begins to profile itself on SIGUSR1 and writes FOLDER/PID.json on
SIGUSR2.

``sample`` looks at the stack ``HERTZ`` times per second of CPU time (ITIMER_PROF; no oftener than the kernel ticks, 250
on most machines): the code runs as fast as without it, and time in the kernel counts for whoever called it. ``calls``
counts every call (cProfile): exact counts, but small functions look dearer than they are.
"""

from __future__ import annotations

import cProfile
import gc
import os
import signal
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from opcode import opmap
from pathlib import Path
from types import CodeType, FrameType

import msgspec

_RESUME = opmap["RESUME"]
_StackKey = tuple[tuple[CodeType, ...], int, bool]


@dataclass(frozen=True, slots=True)
class Function:
    """Where a function stands."""

    file: str
    line: int
    name: str


@dataclass(frozen=True, slots=True)
class Stack:
    """Samples that saw the same stack.

    Attributes:
        samples: How many.
        line: Line of the innermost function.
        entering: The innermost function had not begun yet: the time belongs to whoever called it.
        functions: Indices into :attr:`Recording.functions`, outermost first.
    """

    samples: int
    line: int
    entering: bool
    functions: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Calls:
    """One function as cProfile saw it; seconds."""

    function: int
    calls: int
    own: float
    total: float


@dataclass(frozen=True, slots=True)
class Recording:
    """What a worker writes.

    Attributes:
        cpu: CPU seconds of the process between start and end.
        gc_seconds: CPU seconds in the cyclic garbage collector.
        gc_runs: Its runs by generation.
        functions: All functions that are named below.
        stacks: Of the mode ``sample``.
        calls: Of the mode ``calls``.
    """

    cpu: float
    gc_seconds: float
    gc_runs: tuple[int, ...]
    functions: tuple[Function, ...]
    stacks: tuple[Stack, ...] = ()
    calls: tuple[Calls, ...] = ()


@dataclass(slots=True)
class _Names:
    """Numbers functions as they turn up."""

    index: dict[Function, int] = field(default_factory=dict[Function, int])

    def number(self, file: str, line: int, name: str) -> int:
        return self.index.setdefault(Function(file, line, name), len(self.index))


class Collector:
    """Watches the garbage collector."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.runs = [0, 0, 0]
        self._began = 0.0

    def __call__(self, phase: str, info: dict[str, int]) -> None:
        """As ``gc.callbacks`` calls it."""
        if phase == "start":
            self._began = time.thread_time()
        else:
            self.seconds += time.thread_time() - self._began
            self.runs[info["generation"]] += 1


class Profiler:
    """Profiles the process it is in, between two signals.

    Args:
        folder: Where to write.
        mode: ``sample`` or ``calls``.
        hertz: Samples per second of CPU time.
    """

    def __init__(self, folder: Path, mode: str, hertz: int) -> None:
        self._folder = folder
        self._mode = mode
        self._hertz = hertz
        self._seen: Counter[_StackKey] = Counter()
        self._calls = cProfile.Profile(time.thread_time)  # wall time would count other processes' turns
        self._collector = Collector()
        self._cpu = 0.0

    def attach(self) -> None:
        """Listen for the signals; runs in every forked worker."""
        signal.signal(signal.SIGUSR1, lambda signum, frame: self.start())
        signal.signal(signal.SIGUSR2, lambda signum, frame: self.finish())
        (self._folder / f"{os.getpid()}.pid").touch()

    def start(self) -> None:
        """Begin."""
        gc.callbacks.append(self._collector)
        self._cpu = time.process_time()
        if self._mode == "calls":
            self._calls.enable()
            return
        signal.signal(signal.SIGPROF, self._tick)
        signal.setitimer(signal.ITIMER_PROF, 1 / self._hertz, 1 / self._hertz)

    def finish(self) -> None:
        """End and write the recording."""
        if self._mode == "calls":
            self._calls.disable()
        else:
            signal.setitimer(signal.ITIMER_PROF, 0)
        cpu = time.process_time() - self._cpu
        gc.callbacks.remove(self._collector)
        names = _Names()
        stacks = tuple(self._stack(names, key, count) for key, count in self._seen.items())
        calls = tuple(self._counted(names)) if self._mode == "calls" else ()
        recording = Recording(
            cpu, self._collector.seconds, tuple(self._collector.runs), tuple(names.index), stacks, calls
        )
        part = self._folder / f"{os.getpid()}.part"
        part.write_bytes(msgspec.json.encode(recording))
        part.rename(part.with_suffix(".json"))

    def _tick(self, signum: int, frame: FrameType | None) -> None:
        if frame is None:
            return
        # Where a signal lands: behind a call, at a loop's end, or at a function's entry. At the entry the time was
        # spent before it: the sample says so.
        entering = frame.f_code.co_code[frame.f_lasti] == _RESUME
        line = frame.f_lineno or frame.f_code.co_firstlineno  # None where the compiler put code of its own
        codes: list[CodeType] = []
        at: FrameType | None = frame
        while at is not None:
            codes.append(at.f_code)
            at = at.f_back
        self._seen[tuple(codes), line, entering] += 1

    @staticmethod
    def _stack(names: _Names, key: _StackKey, count: int) -> Stack:
        codes, line, entering = key
        functions = (names.number(c.co_filename, c.co_firstlineno, c.co_qualname) for c in reversed(codes))
        return Stack(count, line, entering, tuple(functions))

    def _counted(self, names: _Names) -> list[Calls]:
        found: list[Calls] = []
        for entry in self._calls.getstats():
            code = entry.code
            if isinstance(code, str):  # a function in C
                number = names.number("", 0, code)
            else:
                number = names.number(code.co_filename, code.co_firstlineno, code.co_qualname)
            found.append(Calls(number, entry.callcount, entry.inlinetime, entry.totaltime))
        return found


def main() -> None:
    """Attach to the workers to come and become ``sparkle``."""
    folder, mode, hertz, *words = sys.argv[1:]
    profiler = Profiler(Path(folder), mode, int(hertz))
    os.register_at_fork(after_in_child=profiler.attach)
    sys.argv = ["sparkle", *words]
    from sparkle.cli import main as sparkle

    sparkle()


if __name__ == "__main__":
    main()
