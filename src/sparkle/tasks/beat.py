"""The beat: schedules recurring tasks. One is active, others stand by; a tick fires once whoever fires it."""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from sparkle.clock import Clock
from sparkle.errors import SparkleError, StoreUnavailableError
from sparkle.settings_tasks import TasksSettings
from sparkle.tasks.recurring import Recurring

if TYPE_CHECKING:
    from sparkle.tasks.tasks import Tasks

log = logging.getLogger("sparkle.tasks.beat")

ROLE = "beat"
SEEN = "schedule"
"""Kind of the ledger rows that remember how far each entry has come."""
_LOOK_SECONDS = 0.5
_REMEMBER_SECONDS = 400 * 86_400.0
"""A yearly entry must find what it did last."""
ON_TIME = timedelta(seconds=30)
"""A tick this late was not missed: a stand-by needs some seconds to take over."""


class Beat:
    """One beat process. :meth:`run` blocks.

    Args:
        tasks: What schedules.
        entries: What recurs.
        settings: The lease of the role.
        owner: This process's id in the ledger.
        clock: Time.
        info: Facts about this process for ``sparkle doctor``.
    """

    def __init__(
        self,
        tasks: Tasks,
        entries: Sequence[Recurring],
        settings: TasksSettings,
        *,
        owner: str,
        clock: Clock,
        info: Mapping[str, Any] | None = None,
    ) -> None:
        self._tasks = tasks
        self._ledger = tasks.ledger
        self._entries = entries
        self._settings = settings
        self._owner = owner
        self._clock = clock
        self._info = dict(info or {})
        self._last: dict[str, datetime] | None = None
        self._next: dict[str, datetime] = {}
        self._announce_at = 0.0
        self._fired = 0
        self.active = False

    def run(self, stop: threading.Event) -> None:
        """Fire ticks until ``stop`` is set, then hand the role on."""
        while not stop.is_set():
            try:
                self.step()
            except SparkleError as exc:
                log.error("%s", exc.message)
            except (
                Exception
            ):  # a beat that died of a surprise would silence every schedule; the next round tries again
                log.exception("the beat stumbled")
            stop.wait(_LOOK_SECONDS)
        try:
            self._ledger.relinquish(ROLE, self._owner)
            self._ledger.leave(self._owner)
        except SparkleError as exc:
            log.error("%s", exc.message)

    def step(self) -> None:
        """Keep the role; if it is ours, fire what has become due.

        Raises:
            LedgerUnavailableError: The ledger does not answer.
        """
        now = self._clock.monotonic()
        if now >= self._announce_at:
            self._announce_at = now + self._settings.heartbeat_seconds
            self._keep_role()
        if self.active:
            self._fire()

    def _keep_role(self) -> None:
        lease = self._settings.lease_seconds
        active = self._ledger.acquire(ROLE, self._owner, lease)
        if active != self.active:
            log.info("this beat is active" if active else "another beat is active now")
            self._last = None  # another one may have fired in between
            self._next.clear()
        self.active = active
        facts = {**self._info, "active": active, "entries": len(self._entries), "fired": self._fired}
        self._ledger.announce(self._owner, ROLE, lease, info=facts)

    def _fire(self) -> None:
        now = datetime.fromtimestamp(self._clock.now(), UTC)
        if self._last is None:
            self._last = self._remembered()
        for entry in self._entries:
            last = self._last.get(entry.name)
            if last is None:
                # Seen for the first time: it begins now, not with a tick of the past.
                self._remember(entry, now)
            elif self._next.setdefault(entry.name, entry.ticks.next_after(last)) <= now:
                self._fire_entry(entry, last, now)

    def _fire_entry(self, entry: Recurring, last: datetime, now: datetime) -> None:
        tick = entry.ticks.latest_until(last, now)
        if tick is None:
            return
        if entry.missed == "latest" or now - tick <= ON_TIME:
            try:
                self._tasks.schedule([entry.call(tick)])
                self._fired += 1
            except StoreUnavailableError:
                raise
            except SparkleError as exc:
                # Its own fault: the others must not wait for it, and it is not tried again before its next tick.
                log.error("schedule %s: %s", entry.name, exc.message)
        else:
            log.warning("schedule %s: skipping what was missed until %s", entry.name, tick.isoformat())
        # After the task: a crash in between fires the same tick again, which finds its task.
        self._remember(entry, tick)

    def _remembered(self) -> dict[str, datetime]:
        return {
            row.id.removeprefix(f"{SEEN}:"): datetime.fromisoformat(str(row.info["tick"]))
            for row in self._ledger.owners(SEEN)
        }

    def _remember(self, entry: Recurring, tick: datetime) -> None:
        following = entry.ticks.next_after(tick)
        self._ledger.announce(
            f"{SEEN}:{entry.name}",
            SEEN,
            _REMEMBER_SECONDS,
            info={"tick": tick.isoformat(), "next": following.isoformat(), "task": entry.task},
        )
        self._next[entry.name] = following
        if self._last is not None:
            self._last[entry.name] = tick
