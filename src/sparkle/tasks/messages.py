"""The doorbell message: which tasks a worker shall try to claim. It carries ids and nothing else.

A message may come twice, late or never; who runs a task is decided in the ledger. So it needs no signature, no expiry
and no redelivery, and a task's arguments never pass the broker.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import msgspec

from sparkle.tasks.record import Handed

RUN = "sparkle.run"
"""The one Celery task there is."""
MAX_IDS = 32
MAX_MILLISECONDS = 50.0
"""Plain tasks share a message up to this much expected work: what a killed worker holds back is no longer than that."""
MAX_ASYNC_IDS = 16
"""Async tasks of one message start together in one child; few enough that the children share the load."""
_ASYNC = ".async"


@dataclass(frozen=True, slots=True)
class Doorbell:
    """One message for one queue."""

    queue: str
    ids: tuple[str, ...]

    def body(self) -> bytes:
        """Its body in Celery's message protocol, version 2: ``[args, kwargs, embed]``."""
        return _BODY.encode(((self.ids,), {}, _EMBED))

    def properties(self) -> dict[str, Any]:
        """What kombu's ``publish`` takes beside the body."""
        message_id = str(uuid4())
        return {
            "routing_key": self.queue,
            "content_type": "application/json",
            "content_encoding": "utf-8",
            "delivery_mode": 2,
            "correlation_id": message_id,
            "headers": {
                "lang": "py",
                "task": RUN,
                "id": message_id,
                "root_id": message_id,
                "parent_id": None,
                "group": None,
                "retries": 0,
                "eta": None,
                "expires": None,
                "timelimit": [None, None],
                "ignore_result": True,
                "argsrepr": f"({len(self.ids)} ids)",
                "kwargsrepr": "{}",
                "origin": "sparkle.relay",
            },
        }


_BODY = msgspec.json.Encoder()
_EMBED = {"callbacks": None, "errbacks": None, "chain": None, "chord": None}


def pack(handed: Sequence[Handed]) -> Iterator[Doorbell]:
    """Share messages among tasks that are handed over together, keeping their order.

    A message costs Celery about a millisecond, whatever it holds. So tasks known to be quick ride together; a slow one,
    and one whose duration nobody knows (a new name, or a task that has crashed its worker), rides alone.
    """
    by_queue: dict[str, list[Handed]] = {}
    for task in handed:
        by_queue.setdefault(task.queue, []).append(task)
    for queue, tasks in by_queue.items():
        is_async = queue.endswith(_ASYNC)
        yield from _pack_async(queue, tasks) if is_async else _pack_plain(queue, tasks)


def _pack_plain(queue: str, tasks: Sequence[Handed]) -> Iterator[Doorbell]:
    ids: list[str] = []
    total = 0.0
    for task in tasks:
        expected = task.expected_ms
        if expected is None or expected > MAX_MILLISECONDS:
            if ids:  # keeps the order: those before it ring first
                yield Doorbell(queue, tuple(ids))
                ids, total = [], 0.0
            yield Doorbell(queue, (task.id,))
            continue
        if ids and (len(ids) == MAX_IDS or total + expected > MAX_MILLISECONDS):
            yield Doorbell(queue, tuple(ids))
            ids, total = [], 0.0
        ids.append(task.id)
        total += expected
    if ids:
        yield Doorbell(queue, tuple(ids))


def _pack_async(queue: str, tasks: Sequence[Handed]) -> Iterator[Doorbell]:
    known = [task.id for task in tasks if task.expected_ms is not None]
    # While one waits the others run, so their durations don't add up. The unknown ones still ride alone: one of them
    # may be what kills its worker.
    yield from (Doorbell(queue, (task.id,)) for task in tasks if task.expected_ms is None)
    for start in range(0, len(known), MAX_ASYNC_IDS):
        yield Doorbell(queue, tuple(known[start : start + MAX_ASYNC_IDS]))
