"""What the machine is and how busy it is: read from /proc, so that a figure can be judged later."""

from __future__ import annotations

import os
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

_TICKS = os.sysconf("SC_CLK_TCK")
_ROOT = Path(__file__).parent.parent


@dataclass(frozen=True, slots=True)
class Memory:
    """Memory of a process tree in MB (10**6 bytes). PSS shares common pages out, RSS counts them in every process."""

    rss_mb: float
    pss_mb: float
    processes: int


def facts() -> dict[str, str]:
    """Machine, versions and load, for the head of a report. Nothing that names the host or its users."""
    return {
        "CPU": f"{os.cpu_count()} x {_cpu_model()}",
        "memory": f"{os.sysconf('SC_PAGE_SIZE') * os.sysconf('SC_PHYS_PAGES') / 1e9:.1f} GB",
        "system": f"{platform.system()} {platform.release()}",
        "Python": platform.python_version(),
        "load at start": f"{os.getloadavg()[0]:.2f} (1 min)",
        "commit": _commit(),
    }


def busy_seconds() -> float:
    """CPU seconds that the whole machine spent on anything since boot, time stolen by its host included."""
    fields = [int(x) for x in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
    user, nice, system, _idle, _iowait, irq, softirq, steal = fields
    return (user + nice + system + irq + softirq + steal) / _TICKS


def tree(pid: int) -> list[int]:
    """The process and all its descendants that live now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (parent := _parent(int(entry.name))) is not None:
            children.setdefault(parent, []).append(int(entry.name))
    found, queue = [pid], [pid]
    while queue:
        below = children.get(queue.pop(), [])
        found += below
        queue += below
    return [p for p in found if Path(f"/proc/{p}").exists()]


def cpu_seconds(pids: list[int]) -> dict[int, float]:
    """CPU seconds of each process since its start, its ended threads included; processes that are gone are left out."""
    found: dict[int, float] = {}
    for pid in pids:
        try:
            # The CPU-time clock of another process, as clock_getcpuclockid(3) numbers it; nanoseconds, not ticks.
            found[pid] = time.clock_gettime(~pid << 3 | 2)
        except OSError:  # it ended while we looked
            continue
    return found


def cpu_since(before: dict[int, float]) -> float:
    """CPU seconds used since an earlier :func:`cpu_seconds` by those of its processes that still live."""
    return sum(now - before[pid] for pid, now in cpu_seconds(list(before)).items())


def memory(pids: list[int]) -> Memory:
    """Memory of these processes together."""
    rss = pss = count = 0
    for pid in pids:
        try:
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except (FileNotFoundError, ProcessLookupError):  # it ended while we looked
            continue
        sizes = {line.split(":")[0]: int(line.split()[1]) for line in rollup.splitlines()[1:]}
        rss += sizes.get("Rss", 0)
        pss += sizes.get("Pss", 0)
        count += 1
    return Memory(rss * 1024 / 1e6, pss * 1024 / 1e6, count)


def _parent(pid: int) -> int | None:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(stat.rpartition(")")[2].split()[1])


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _commit() -> str:
    def git(*args: str) -> str:
        done = subprocess.run(["git", "-C", str(_ROOT), *args], capture_output=True, text=True, check=False)
        return done.stdout.strip()

    try:
        commit = git("rev-parse", "--short", "HEAD")
        return (commit + (" with changes" if git("status", "--porcelain") else "")) or "unknown"
    except FileNotFoundError:  # no git: an unpacked archive
        return "unknown"
