"""A worker's recording as tables: where the CPU time of a request goes, by room, function and line."""

from __future__ import annotations

import sysconfig
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from bench.profile_worker import Function, Recording, Stack
from bench.report import Table, number

LOOP = "event loop, sockets, kernel (uvloop)"
_ROOT = str(Path(__file__).parent.parent) + "/"
_SPARKLE = _ROOT + "src/sparkle/"
_ROOMS = (
    ("llm/safety/", "1 input guard"),
    ("llm/quota/", "2 quota"),
    ("llm/providers/", "3 provider"),
    ("llm/output/", "4 output guard"),
    ("llm/monitoring/", "5 monitoring"),
    ("llm/", "wrapper (llm/*.py)"),
    ("server/", "gateway (server/)"),
    ("", "sparkle/*.py"),
)


def room(file: str) -> str:
    """The room of Sparkle, the package or the part of the standard library that a file belongs to."""
    if file.startswith(_SPARKLE):
        below = file.removeprefix(_SPARKLE)
        return next(name for prefix, name in _ROOMS if below.startswith(prefix))
    _, found, below = file.rpartition("/site-packages/")
    if found:
        return below.split("/")[0].removesuffix(".py")
    stdlib = sysconfig.get_path("stdlib") + "/"
    if file.startswith(stdlib):
        return "Python's " + file.removeprefix(stdlib).split("/")[0].removesuffix(".py")
    return "built in" if file.startswith("<") or not file else Path(file).name


def is_sparkle(file: str) -> bool:
    """Whether a file is Sparkle's own code."""
    return file.startswith(_SPARKLE)


def sampled(recording: Recording, requests: int, top: int) -> list[Table]:
    """Tables of a recording by samples.

    Args:
        recording: Of one worker.
        requests: How many requests it answered meanwhile; every figure is CPU microseconds per request.
        top: Rows of the longer tables.
    """
    total = sum(stack.samples for stack in recording.stacks) or 1
    one_sample = recording.cpu / total / max(1, requests) * 1e6
    base = common_prefix([stack.functions for stack in recording.stacks])
    own_room: Counter[str] = Counter()
    caused: Counter[str] = Counter()
    own: Counter[Function] = Counter()
    inclusive: Counter[Function] = Counter()
    lines: Counter[tuple[Function, int]] = Counter()
    for stack in recording.stacks:
        functions = [recording.functions[i] for i in stack.functions]
        if in_loop(stack, base):
            own_room[LOOP] += stack.samples
            caused[LOOP] += stack.samples
            continue
        # At a function's entry the time before it was its caller's.
        inner = functions[-2] if stack.entering and len(functions) > base + 1 else functions[-1]
        own_room[room(inner.file)] += stack.samples
        caused[_cause(functions[base:])] += stack.samples
        own[inner] += stack.samples
        if inner is functions[-1]:
            lines[inner, stack.line] += stack.samples
        for function in set(functions[base:]):
            if is_sparkle(function.file):
                inclusive[function] += stack.samples

    def share(samples: int) -> tuple[str, str]:
        return f"{samples * one_sample:.1f}", f"{samples / total:.1%}"

    rooms = sorted(set(own_room) | set(caused), key=lambda r: -max(caused[r], own_room[r]))
    columns = ("us/request", "share")
    return [
        Table(
            "CPU by room: own code, and all that it caused (the nearest of Sparkle's rooms up the stack)",
            ("room", "caused us/request", "share", "own us/request", "share"),
            tuple(
                (name, *share(caused[name]), *share(own_room[name]))
                for name in rooms
                if caused[name] or own_room[name]
            ),
        ),
        Table(
            f"Functions by own time, {top} most (C functions count for their callers)",
            ("function", *columns),
            tuple((where(f), *share(n)) for f, n in own.most_common(top)),
        ),
        Table(
            f"Sparkle's functions with all they call, {top} most",
            ("function", *columns),
            tuple((where(f), *share(n)) for f, n in inclusive.most_common(top)),
        ),
        Table(
            f"Lines, {top // 2} most",
            ("line", *columns),
            tuple((where(f, line), *share(n)) for (f, line), n in lines.most_common(top // 2)),
        ),
    ]


def counted(recording: Recording, requests: int, top: int) -> list[Table]:
    """Tables of a recording by calls; arguments as of :func:`sampled`."""
    per_request = 1e6 / max(1, requests)
    rooms: dict[str, float] = {}
    for entry in recording.calls:
        name = room(recording.functions[entry.function].file)
        rooms[name] = rooms.get(name, 0.0) + entry.own
    rows = sorted(recording.calls, key=lambda entry: -entry.own)[:top]
    return [
        Table(
            "By room: own time under cProfile (its own cost counts in)",
            ("room", "us/request"),
            tuple(
                (name, f"{seconds * per_request:.1f}")
                for name, seconds in sorted(rooms.items(), key=lambda item: -item[1])[:20]
            ),
        ),
        Table(
            f"Functions by own time under cProfile, {top} most",
            ("function", "calls/request", "own us/request", "with callees"),
            tuple(
                (
                    where(recording.functions[e.function]),
                    number(e.calls / max(1, requests)),
                    f"{e.own * per_request:.1f}",
                    f"{e.total * per_request:.1f}",
                )
                for e in rows
            ),
        ),
    ]


def common_prefix(stacks: Sequence[tuple[int, ...]]) -> int:
    """How many outermost functions all stacks share: those that run the event loop."""
    if not stacks:
        return 0
    shortest, longest = min(stacks), max(stacks)
    length = 0
    for a, b in zip(shortest, longest, strict=False):
        if a != b:
            break
        length += 1
    return length


def in_loop(stack: Stack, base: int) -> bool:
    """Whether no Python function was at work: the loop itself, or it was just about to call one."""
    depth = len(stack.functions)
    return depth <= base or (depth == base + 1 and stack.entering)


def where(function: Function, line: int | None = None) -> str:
    """``name (file:line)`` with the file as short as it stays clear."""
    if not function.file:
        return function.name
    file = function.file
    if is_sparkle(file):
        file = file.removeprefix(_SPARKLE)
    else:
        file = (
            file.rpartition("/site-packages/")[2]
            .removeprefix(sysconfig.get_path("stdlib") + "/")
            .removeprefix(_ROOT)
        )
    return f"{function.name} ({file}:{line or function.line})"


def _cause(functions: Sequence[Function]) -> str:
    for function in reversed(functions):
        if is_sparkle(function.file):
            return room(function.file)
    return room(functions[0].file)
