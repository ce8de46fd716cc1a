"""Who gets which task while workers differ in the names they know: in the middle of a deploy, or in a mixed fleet.

Workers that read the same queues and know the same names are one *edition*. Beside the shared queues each edition reads
queues of its own. While all live workers of a queue know a task, its doorbell goes to the shared queue; when only some
do, to the own queue of one that does; when none does, the task waits in the ledger until one announces the name.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import msgspec

from sparkle.tasks.record import Owner

NAMES_ANNOUNCED = 2_000
"""A worker that knows more names announces so many, and counts as one that knows every task."""
OWN_QUEUE_SECONDS = 3_600
"""RabbitMQ forgets an edition's own queue that nobody has read for so long."""
_OWN = ".only-"


def edition_of(names: Iterable[str], queues: Iterable[str]) -> str:
    """What workers have in common that know ``names`` and read ``queues``."""
    from hashlib import blake2b

    text = msgspec.json.encode((sorted(names), sorted(queues)))
    return blake2b(text, digest_size=6).hexdigest()


def own_queue(queue: str, edition: str) -> str:
    """The queue that only workers of ``edition`` read, for tasks of ``queue``."""
    return f"{queue}{_OWN}{edition}"


def is_own(queue: str) -> bool:
    """Whether :func:`own_queue` made this name."""
    return _OWN in queue


def queues_read(queues: Sequence[str], edition: str) -> tuple[str, ...]:
    """All queues that a worker of ``edition`` reads, the first served first."""
    return tuple(name for queue in queues for name in (queue, own_queue(queue, edition)))


def announcement(names: Iterable[str], queues: Sequence[str], edition: str) -> dict[str, Any]:
    """What a worker says about itself, for :class:`Fleet` to read."""
    known = sorted(names)
    return {
        "edition": edition,
        "queues": list(queues),
        "names": known[:NAMES_ANNOUNCED],
        "more_names": len(known) > NAMES_ANNOUNCED,
    }


@dataclass(frozen=True, slots=True)
class Edition:
    """Workers that are alike."""

    id: str
    queues: frozenset[str]
    names: frozenset[str] | None
    """``None``: it has not said all of them, and counts as one that knows every task."""

    def knows(self, name: str) -> bool:
        """Whether its workers can run tasks of this name."""
        return self.names is None or name in self.names


@dataclass(frozen=True, slots=True)
class Fleet:
    """The editions that are alive. Equal fleets send every task the same way."""

    editions: frozenset[Edition] = frozenset()
    _ways: dict[tuple[str, str], tuple[str, ...] | None] = field(
        default_factory=dict[tuple[str, str], "tuple[str, ...] | None"], compare=False
    )
    _divided: dict[str, frozenset[str]] = field(default_factory=dict[str, frozenset[str]], compare=False)

    @classmethod
    def of(cls, workers: Iterable[Owner], now: int) -> Fleet:
        """The fleet that ``workers`` are.

        Args:
            workers: What the ledger knows of workers, dead ones included.
            now: Microseconds since the epoch; whoever should have announced itself before counts as dead.
        """
        queues: dict[str, frozenset[str]] = {}
        names: dict[str, frozenset[str] | None] = {}
        for worker in workers:
            if worker.alive_until < now:
                continue
            id = str(worker.info.get("edition") or "")
            read = frozenset(map(str, worker.info.get("queues") or ()))
            said = frozenset(map(str, worker.info.get("names") or ()))
            queues[id] = queues.get(id, frozenset()) | read
            # A worker of an older Sparkle names no edition: it reads no queue of its own, and may know anything.
            silent = not id or bool(worker.info.get("more_names"))
            before = names.get(id, frozenset())
            names[id] = None if silent or before is None else before | said
        return cls(frozenset(Edition(id, queues[id], names[id]) for id in queues))

    def way(self, queue: str, name: str) -> tuple[str, ...] | None:
        """To whom a doorbell must go so that it reaches a worker which knows the task.

        Returns:
            Nothing: the shared queue will do (also where nobody reads the queue yet). Editions: the own queue of one of
            them. ``None``: nobody knows the task, it has to wait.
        """
        key = (queue, name)
        if key not in self._ways:
            self._ways[key] = self._way(queue, name)
        return self._ways[key]

    def _way(self, queue: str, name: str) -> tuple[str, ...] | None:
        readers = self._readers(queue)
        able = [edition for edition in readers if edition.knows(name)]
        if len(able) == len(readers):
            return ()
        if not able:
            return None
        # Where only an edition without a queue of its own is left, nothing better is known than the shared one.
        return tuple(sorted(edition.id for edition in able if edition.id))

    def divided(self, queue: str) -> frozenset[str]:
        """The names that some but not all workers of ``queue`` know and that have to be sent to queues of their own."""
        if queue not in self._divided:
            known = frozenset[str]().union(*(edition.names or () for edition in self._readers(queue)))
            self._divided[queue] = frozenset(name for name in known if self.way(queue, name))
        return self._divided[queue]

    def readers_of(self, queue: str) -> tuple[str, ...]:
        """The editions that have a queue of their own beside ``queue``."""
        return tuple(sorted(edition.id for edition in self._readers(queue) if edition.id))

    def _readers(self, queue: str) -> list[Edition]:
        # Whoever has not said what it reads may read anything.
        return [edition for edition in self.editions if not edition.id or queue in edition.queues]


def editions_remembered(workers: Iterable[Owner]) -> int:
    """How many editions there were lately, dead workers included."""
    return len({str(worker.info.get("edition") or "") for worker in workers})
