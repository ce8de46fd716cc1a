"""Processes of this machine that are dead for certain: nobody has to wait until their leases end.

A process announces itself with a mark: which machine and process namespace it lives in, since when. Another process in
the same namespace can tell by it that the process is gone, and cannot be misled by a number that was given out again.
Where there is no ``/proc`` there is no mark, and leases end by time alone, as they do for processes of other machines.
"""

from __future__ import annotations

import os
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sparkle.tasks.record import Owner

if TYPE_CHECKING:
    from collections.abc import Iterable

    from sparkle.tasks.ledger import Ledger

KINDS = frozenset({"relay", "beat", "worker", "manager"})
_PROC = Path("/proc")
_AFTER_NAME = 2
"""Field of ``/proc/PID/stat`` that follows the name, which may hold spaces and brackets."""
_STATE, _BORN = 3 - 1 - _AFTER_NAME, 22 - 1 - _AFTER_NAME
_DEAD = frozenset("ZX")


def mark(*, heir: int | None = None) -> dict[str, Any]:
    """What this process adds to its announcement; empty where it cannot be told apart from others.

    Args:
        heir: Process id of whoever looks after what this one leaves: as long as that one lives, nobody else does.
    """
    space, seen = _space(), _look(os.getpid())
    if not space or seen is None:
        return {}
    found: dict[str, Any] = {"space": space, "born": seen[1]}
    if heir is not None:
        looked = _look(heir)
        found |= {"heir": heir, "heir_born": None if looked is None else looked[1]}
    return found


def is_dead(owner: Owner) -> bool:
    """Whether a process lived here and is gone for certain, and its heir too. False also where nobody can know."""
    info = owner.info
    if not info.get("space") or info["space"] != _space() or not _is_gone(info.get("pid"), info.get("born")):
        return False
    return "heir" not in info or _is_gone(info["heir"], info.get("heir_born"))


def _is_gone(pid: object, born: object) -> bool:
    if not isinstance(pid, int) or not isinstance(born, int):
        return False
    seen = _look(pid)
    return seen is None or seen[0] in _DEAD or seen[1] != born


def bury_dead(ledger: Ledger, kinds: Iterable[str] = KINDS) -> list[str]:
    """Hand out again what dead processes of this machine held, and mark as interrupted what they ran by themselves.

    Args:
        ledger: The ledger.
        kinds: Which kinds of processes to look at.

    Returns:
        Ids of their tasks.

    Raises:
        LedgerUnavailableError: It does not answer.
    """
    now, wanted = ledger.now(), frozenset(kinds)
    taken: list[str] = []
    for owner in ledger.owners():
        if owner.kind in wanted and owner.alive_until >= now and is_dead(owner):
            taken += ledger.bury(owner.id)
    return taken


def _look(pid: int) -> tuple[str, int] | None:
    """State of a process, and when it began in ticks since the machine's start; ``None``: there is none."""
    try:
        text = (_PROC / str(pid) / "stat").read_text("utf-8", "replace")
    except OSError:
        return None
    fields = text.rpartition(")")[2].split()
    return fields[_STATE], int(fields[_BORN])


@cache
def _space() -> str:
    """The machine's present start, and the namespace of process numbers; empty: unknown."""
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
        return f"{boot} {os.readlink(_PROC / 'self/ns/pid')}"
    except OSError:
        return ""
