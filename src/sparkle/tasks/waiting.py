"""Who is next: waiting tasks by priority, then by age, each user within the user's own limit.

Every user with waiting tasks has a queue of its own; a heap holds the head of each queue whose user may start another
task. So nothing is searched, however many wait, and a user at the limit holds up nobody else.
"""

from __future__ import annotations

from collections import OrderedDict
from heapq import heapify, heappop, heappush
from typing import Generic, Protocol, TypeVar

PRIORITIES = 10
"""Priorities are 0 to 9; 9 is served first."""
_SLACK = 64
"""Heap entries that may be stale before the heap is built anew."""


class Waiter(Protocol):
    """What a waiting task shows of itself. Compared by identity."""

    @property
    def priority(self) -> int:
        """0 to 9."""
        ...

    @property
    def user_id(self) -> str | None:
        """Whose limit counts; ``None``: only the limit of all."""
        ...


W = TypeVar("W", bound=Waiter)
Turn = tuple[int, int]
"""Negative priority and number of arrival: the smallest goes first."""


class _Queue(Generic[W]):
    """The waiting tasks of one user."""

    __slots__ = ("lanes", "shown")

    def __init__(self) -> None:
        self.lanes: dict[int, OrderedDict[W, int]] = {}
        self.shown: Turn | None = None
        """The entry of the heap that speaks for this queue; all others of it are stale."""

    def head(self) -> tuple[Turn, W] | None:
        for priority in sorted(self.lanes, reverse=True):
            for task, number in self.lanes[priority].items():
                return (-priority, number), task
        return None

    def remove(self, task: W) -> None:
        lane = self.lanes[task.priority]
        del lane[task]
        if not lane:
            del self.lanes[task.priority]


class WaitingRoom(Generic[W]):
    """Counts what runs and knows what may run next.

    After a task was let in, given up or finished, call :meth:`next` until it says ``None``: no slot stays free while a
    task waits that may use it.

    Args:
        limit: Most tasks that run at once; at least 1.
        per_user: Most tasks of one user that run at once; 0 means no limit. Tasks without a user know only ``limit``.
    """

    __slots__ = ("_arrivals", "_heads", "_queues", "_running_of", "limit", "per_user", "running", "waiting")

    def __init__(self, limit: int, per_user: int) -> None:
        if limit < 1 or per_user < 0:
            raise ValueError("limit must be at least 1 and per_user at least 0")
        self.limit = limit
        self.per_user = per_user
        self.running = 0
        """Tasks that hold a slot."""
        self.waiting = 0
        """Tasks that wait for one."""
        self._arrivals = 0
        self._queues: dict[str | None, _Queue[W]] = {}
        self._heads: list[tuple[int, int, _Queue[W], str | None]] = []
        self._running_of: dict[str, int] = {}

    def enter(self, user_id: str | None) -> bool:
        """Take a slot for a new task at once; False when none is free or the user is at the limit.

        Nobody is overtaken: whoever waits while a slot is free waits for the own user's limit.
        """
        if self.running >= self.limit:
            return False
        if self.per_user and user_id is not None:
            count = self._running_of.get(user_id, 0)
            if count >= self.per_user:
                return False
            self._running_of[user_id] = count + 1
        self.running += 1
        return True

    def wait(self, task: W) -> None:
        """Queue ``task`` behind the others of its user and priority."""
        user_id = task.user_id
        queue = self._queues.get(user_id)
        if queue is None:
            queue = self._queues[user_id] = _Queue()
        self._arrivals += 1
        queue.lanes.setdefault(task.priority, OrderedDict())[task] = self._arrivals
        self.waiting += 1
        self._show(queue, user_id)

    def give_up(self, task: W) -> None:
        """``task`` waits no longer (it was cancelled). It must be waiting."""
        user_id = task.user_id
        queue = self._queues[user_id]
        queue.remove(task)
        self.waiting -= 1
        self._show(queue, user_id)

    def exit(self, user_id: str | None) -> None:
        """Give back a slot that :meth:`enter` or :meth:`next` gave."""
        self.running -= 1
        if not self.per_user or user_id is None:
            return
        count = self._running_of[user_id] - 1
        if count:
            self._running_of[user_id] = count
        else:
            del self._running_of[user_id]
        if (queue := self._queues.get(user_id)) is not None:
            self._show(queue, user_id)

    def next(self) -> W | None:
        """The task that starts now, its slot taken; ``None`` when no slot is free or nobody who waits may use it."""
        while self._heads and self.running < self.limit:
            priority, number, queue, user_id = heappop(self._heads)
            head = queue.head()
            if head is None or queue.shown != (priority, number):
                continue  # stale
            task = head[1]
            queue.remove(task)
            self.waiting -= 1
            self.running += 1
            if self.per_user and user_id is not None:
                self._running_of[user_id] = self._running_of.get(user_id, 0) + 1
            queue.shown = None
            self._show(queue, user_id)
            return task
        return None

    def waiting_of(self, user_id: str) -> int:
        """Tasks of this user that wait for a slot."""
        queue = self._queues.get(user_id)
        return sum(map(len, queue.lanes.values())) if queue is not None else 0

    @property
    def remembered(self) -> int:
        """Queues and heap entries it holds, stale ones included: bounded by those who wait, not by those who did."""
        return len(self._queues) + len(self._heads)

    def oldest(self) -> list[W]:
        """The task at the head of every user's every priority: the one that has waited longest is among them."""
        return [next(iter(lane)) for queue in self._queues.values() for lane in queue.lanes.values()]

    def _show(self, queue: _Queue[W], user_id: str | None) -> None:
        """Let the heap know the head of ``queue``, if it may start."""
        head = queue.head()
        if head is None:
            queue.shown = None
            del self._queues[user_id]
            return
        if self.per_user and user_id is not None and self._running_of.get(user_id, 0) >= self.per_user:
            queue.shown = None
            return
        if queue.shown == head[0]:
            return
        queue.shown = head[0]
        heappush(self._heads, (*head[0], queue, user_id))
        if len(self._heads) > 2 * len(self._queues) + _SLACK:
            self._heads = [
                (*queue.shown, queue, user) for user, queue in self._queues.items() if queue.shown is not None
            ]
            heapify(self._heads)
