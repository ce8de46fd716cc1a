"""Failures of short tasks that nobody asked about: said once, in the log."""

from __future__ import annotations

import logging
import traceback
from collections import deque
from typing import Any
from weakref import WeakSet

log = logging.getLogger("sparkle.tasks")
_PENDING = 10_000


class Unseen:
    """Hangs on a failed task's handle until somebody awaits it; speaks up when the handle goes first."""

    __slots__ = ("__weakref__", "_register", "_text")

    def __init__(self, register: UnseenFailures, text: str) -> None:
        self._register: UnseenFailures | None = register
        self._text = text

    def seen(self) -> None:
        """Somebody has the error now."""
        self._register = None

    def report(self) -> None:
        """Say it, if nobody has it."""
        register, self._register = self._register, None
        if register is not None:
            register.say(self._text)

    def __del__(self) -> None:
        self.report()


class UnseenFailures:
    """The failed tasks of one manager whose handles nobody has awaited yet."""

    def __init__(self) -> None:
        self._open: WeakSet[Unseen] = WeakSet()
        # A handle may be collected in any thread; an append is safe there, a counter is not.
        self._said: deque[None] = deque(maxlen=_PENDING)

    def note(self, id: str, name: str, error: BaseException) -> Unseen:
        """A task failed while nobody waited. Its type and place are kept; its message may hold a user's text."""
        unseen = Unseen(
            self,
            f"task {name} {id} failed and nobody awaited it: {type(error).__name__}{_place(error)}",
        )
        self._open.add(unseen)
        return unseen

    def say(self, text: str) -> None:
        """Log one failure."""
        self._said.append(None)
        log.error("%s", text)

    def take_count(self) -> int:
        """How many were logged since the last call."""
        count = 0
        while self._said:
            self._said.popleft()
            count += 1
        return count

    def report_all(self) -> None:
        """Log those whose handles still exist: the manager closes, nobody will ask any more."""
        for unseen in list(self._open):
            unseen.report()


def _place(error: BaseException) -> str:
    """`` at FUNCTION (FILE:LINE)`` of where it was raised: code, no data."""
    frames: list[Any] = list(traceback.walk_tb(error.__traceback__))
    if not frames:
        return ""
    frame, line = frames[-1]
    module = frame.f_globals.get("__name__", "?")
    return f" in {module}.{frame.f_code.co_name}, line {line}"
