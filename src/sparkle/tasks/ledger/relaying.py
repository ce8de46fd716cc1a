"""The relay's side: what is due goes to the broker, what the broker lost comes back, what a dead worker held too."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import Connection

from sparkle.tasks.ledger.base import LedgerBase, json
from sparkle.tasks.record import ByName, Handed

_EXPIRE_BATCH = 500
_FAR = 2**62
"""Later than any time that is stored."""


class Relaying(LedgerBase):
    """``hand_over``, ``take_back``, ``queued``, ``queued_names``, ``next_due``, ``bury``, ``expire``."""

    def hand_over(
        self,
        window: Mapping[str, int],
        now: int | None = None,
        *,
        chosen: Mapping[str, ByName] | None = None,
    ) -> list[Handed]:
        """Mark what is due as QUEUED, so that its doorbell can be rung.

        By priority, then by how long it has been due. Takes no write lock when nothing is due.

        Args:
            window: Queue to the number of its tasks that may be QUEUED at a time, those that are already included.
                Queues that are not named are left alone.
            now: Microseconds since the epoch; ``None``: the clock's.
            chosen: Queue to which of its tasks are meant, also by the window; queues that are not named: all.

        Returns:
            The tasks that became QUEUED, first the one to ring for first.
        """
        now = self.now() if now is None else now
        chosen = chosen or {}
        with self.read() as connection:
            heads = [
                (queue, priority)
                for queue, priority, due_at in self._run(connection, "pending_heads")
                if due_at <= now and queue in window
            ]
            if not heads:
                return []
            lying = self._lying(connection, chosen)
            room = {queue: most - lying.get(queue, 0) for queue, most in window.items()}
            heads = [head for head in heads if room[head[0]] > 0]
            picked = self._pick(connection, [head for head in heads if head[0] in chosen], chosen, room, now)
        plain = [head for head in heads if head[0] not in chosen]
        if not plain and not picked:
            return []
        handed: list[tuple[int, int, str, Any]] = []
        with self._writing() as connection:
            for queue, priority in plain:
                if room[queue] <= 0:
                    continue
                rows = self._run(
                    connection, "hand_over", now=now, queue=queue, priority=priority, room=room[queue]
                ).all()
                room[queue] -= len(rows)
                handed += ((-priority, row.due_at, row.id, row) for row in rows)
            if picked:
                rows = self._run(connection, "hand_over_ids", now=now, ids=json(picked)).all()
                handed += ((-row.priority, row.due_at, row.id, row) for row in rows)
            paces: dict[str, float] = {name: pace for name, pace in self._run(connection, "paces")}
        handed.sort(key=lambda entry: entry[:3])
        return [
            # What has crashed a worker may do so again: nobody knows what to expect of it.
            Handed(
                *(row.id, row.name, row.queue, row.priority, row.fence),
                None if row.crashes else paces.get(row.name),
            )
            for *_, row in handed
        ]

    def _lying(self, connection: Connection, chosen: Mapping[str, ByName]) -> dict[str, int]:
        """By queue: how many of the tasks that are meant lie in the broker."""
        if not chosen:
            return {queue: count for queue, count, _ in self._run(connection, "queued")}
        lying: dict[str, int] = {}
        for queue, name, count, _ in self._run(connection, "queued_names"):
            some = chosen.get(queue)
            if some is None or (name in some.names) == some.only:
                lying[queue] = lying.get(queue, 0) + count
        return lying

    def _pick(
        self,
        connection: Connection,
        heads: Sequence[tuple[str, int]],
        chosen: Mapping[str, ByName],
        room: Mapping[str, int],
        now: int,
    ) -> list[str]:
        """Ids of those that may be handed over where not all tasks of a queue are meant."""
        picked: list[str] = []
        left = dict(room)
        for queue, priority in heads:
            if left[queue] > 0:
                some = chosen[queue]
                found = self._run(
                    connection,
                    "due_only" if some.only else "due_except",
                    **{"now": now, "queue": queue, "priority": priority, "room": left[queue]},
                    names=json(sorted(some.names)),
                )
                ids = found.scalars().all()
                left[queue] -= len(ids)
                picked += ids
        return picked

    def take_back(
        self,
        *,
        queue: str | None = None,
        chosen: ByName | None = None,
        ids: Sequence[str] | None = None,
        older_than: int | None = None,
    ) -> int:
        """Mark QUEUED tasks as WAITING again: their doorbell is lost, or could not be rung.

        A message that turns up after all does no harm: its claim fails, or comes first.

        Args:
            queue: Only tasks of this queue.
            chosen: Only these of ``queue``.
            ids: Only these tasks; together with ``queue`` it is an error.
            older_than: Only tasks that were queued before (microseconds since the epoch).

        Returns:
            How many there were.
        """
        if queue is not None and ids is not None:
            raise ValueError("take_back: give a queue or ids, not both")
        before = _FAR if older_than is None else older_than
        with self._writing() as connection:
            if ids is not None:
                self._lock_rows(connection, ids)
                return self._run(connection, "take_back_ids", ids=json(list(ids)), before=before).rowcount
            if queue is not None and chosen is not None:
                name = "take_back_only" if chosen.only else "take_back_except"
                names = json(sorted(chosen.names))
                return self._run(connection, name, queue=queue, before=before, names=names).rowcount
            if queue is not None:
                return self._run(connection, "take_back_queue", queue=queue, before=before).rowcount
            return self._run(connection, "take_back_all", before=before).rowcount

    def queued(self) -> dict[str, tuple[int, int]]:
        """By queue: how many tasks are QUEUED, and when the oldest became so (microseconds since the epoch)."""
        with self.read() as connection:
            return {queue: (count, oldest) for queue, count, oldest in self._run(connection, "queued")}

    def queued_names(self) -> list[tuple[str, str, int, int]]:
        """Queue, name, number of QUEUED tasks, and when the oldest became so (microseconds since the epoch)."""
        with self.read() as connection:
            return [tuple(row) for row in self._run(connection, "queued_names")]

    def next_due(self) -> int | None:
        """When the next waiting task is due (microseconds since the epoch, maybe past); ``None``: none waits."""
        with self.read() as connection:
            return min((due_at for _, _, due_at in self._run(connection, "pending_heads")), default=None)

    def oldest_waiting_age(self, now: int | None = None) -> dict[str, float]:
        """By queue: for how many seconds its longest-due task has been due and not handed over; 0.0: none is due."""
        now = self.now() if now is None else now
        ages: dict[str, float] = {}
        with self.read() as connection:
            for queue, _, due_at in self._run(connection, "pending_heads"):
                ages[queue] = max(ages.get(queue, 0.0), (now - due_at) / 1_000_000)
        return ages

    def bury(self, owner: str) -> list[str]:
        """A process is dead for certain: its roles are free, and its leases end now, as by :meth:`expire`.

        Args:
            owner: Its id. It stays on record until it is forgotten, as one that did not leave.

        Returns:
            Ids of the tasks taken from it.
        """
        with self._writing() as connection:
            self._run(connection, "mourn", owner=owner, now=self.now())
            self._run(connection, "relinquish_all", owner=owner)
        return self.expire(owner=owner)

    def expire(
        self,
        now: int | None = None,
        *,
        owner: str | None = None,
        max_crashes: int | None = None,
    ) -> list[str]:
        """Take tasks from workers that are dead or cut off. Takes no write lock when there are none.

        A long task goes back to WAITING with one crash more and the attempt not counted; after ``max_crashes`` it is
        a dead letter (``WorkerCrashed``); if somebody wanted it cancelled, it is. A short task of a process that has
        not announced itself in time is INTERRUPTED.

        Args:
            now: Microseconds since the epoch; ``None``: the clock's. Leases that end before it count as lost.
            owner: A worker that is known to be dead: its leases count as lost at once.
            max_crashes: How often a worker may die over one task; ``None``: what the ledger was opened with.

        Returns:
            Ids of the tasks taken.
        """
        now = self.now() if now is None else now
        most = self._max_crashes if max_crashes is None else max_crashes
        values = {"now": now, "owner": owner}
        with self.read() as connection:
            long = self._run(connection, "anything_expired", **values).first() is not None
            short = self._run(connection, "anything_orphaned", now=now).first() is not None
        taken: list[str] = []
        while long:
            with self._writing() as connection:
                rows = self._run(connection, "expire", **values, max_crashes=most, batch=_EXPIRE_BATCH).all()
            taken += (row[0] for row in rows)
            long = len(rows) == _EXPIRE_BATCH
        while short:
            with self._writing() as connection:
                rows = self._run(connection, "interrupt_short", now=now, batch=_EXPIRE_BATCH).all()
            taken += (row[0] for row in rows)
            short = len(rows) == _EXPIRE_BATCH
        return taken
