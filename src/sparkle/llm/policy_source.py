"""Where the running server's policy comes from: a file that is watched, checked, and swapped in one step."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, Literal, TypeVar

from sparkle.clock import Clock
from sparkle.errors import PolicyError
from sparkle.llm.policy import Policy
from sparkle.llm.policy_file import (
    default_policy_text,
    load_policy,
    parse_policy,
    policy_hash,
    read_policy_bytes,
)

__all__ = [
    "PolicySnapshot",
    "PolicyStatus",
    "PolicyWatcher",
    "ReloadResult",
    "default_policy_text",
    "load_policy",
    "parse_policy",
    "policy_hash",
]

log = logging.getLogger("sparkle.policy")

T = TypeVar("T")

ReloadResult = Literal["loaded", "unchanged", "failed"]

_SETTLED_SECONDS = 2.0
"""A file changed this recently is read again even if its stamp looks the same: file clocks are coarse."""


@dataclass(frozen=True, slots=True)
class PolicySnapshot(Generic[T]):
    """One policy in force, with what was built from it."""

    policy: Policy
    hash: str
    value: T
    """What the watcher's ``build`` made of the policy, e.g. the compiled guards."""
    loaded_at: float
    """Seconds since the Unix epoch."""


@dataclass(frozen=True, slots=True)
class PolicyStatus:
    """What ``/readyz`` and ``sparkle status`` tell about the policy."""

    source: str
    name: str
    hash: str
    loaded_at: float
    error: str | None
    """Why the newest version of the file is not in force; ``None`` when it is."""


class PolicyWatcher(Generic[T]):
    """Holds the snapshot in force and replaces it when the file changes; a broken file changes nothing.

    ``current`` is replaced in one assignment, so a call that reads it once sees one policy from beginning to
    end. The file is polled (one system call a second): notifications miss changes on network and container
    mounts. Symbolic links are followed, so a mounted ConfigMap that swaps its link is seen too.
    """

    def __init__(
        self,
        path: str | Path | None,
        build: Callable[[Policy], T],
        *,
        clock: Clock,
        interval: float = 1.0,
        on_reload: Callable[[ReloadResult, PolicySnapshot[T]], None] | None = None,
    ) -> None:
        """Load the first snapshot.

        Args:
            path: Policy file; ``None`` or empty: the shipped default, which is not watched.
            build: Makes what callers use out of a policy; runs in a thread on reload, so that compiling rules
                does not hold the event loop. It may raise :class:`PolicyError` to refuse the policy.
            clock: Time between polls.
            interval: Seconds between polls.
            on_reload: Told of every change that was loaded or failed, after the swap, in the event loop.

        Raises:
            PolicyError: The first load fails: a server does not start without a policy.
        """
        self._path = Path(path) if path else None
        self._build = build
        self._clock = clock
        self._interval = interval
        self.on_reload = on_reload
        """Told of every reload; may be set later, e.g. after a fork."""
        self._stamp: tuple[int, ...] | None = None
        self._settled = False
        self._seen: bytes | None = None
        self.error: str | None = None
        """Why the file's newest version is not in force."""
        if self._path is not None:
            self._stamp = _stamp(self._path)
            self._seen = read_policy_bytes(self._path)
        self.current: PolicySnapshot[T] = self._snapshot(
            default_policy_text().encode() if self._seen is None else self._seen
        )

    @property
    def source(self) -> str:
        """The file's path, or ``default policy``."""
        return str(self._path) if self._path else "default policy"

    def status(self) -> PolicyStatus:
        """The policy in force and whether the file's newest version is it."""
        now = self.current
        return PolicyStatus(self.source, now.policy.name, now.hash, now.loaded_at, self.error)

    async def check(self) -> ReloadResult:
        """Look at the file once and swap if it changed. Never raises for what the file holds."""
        if self._path is None:
            return "unchanged"
        stamp = _stamp(self._path)
        if stamp is not None and stamp == self._stamp and self._settled:
            return "unchanged"
        try:
            data = read_policy_bytes(self._path)
        except PolicyError as exc:
            self._seen = None  # whatever comes back, even the same bytes, is looked at afresh
            return self._failed(exc.message)
        self._stamp = stamp
        # Once a stamp is older than the coarsest file-system clock it can no longer hide a second change.
        self._settled = stamp is not None and self._clock.now() - stamp[0] / 1e9 > _SETTLED_SECONDS
        if data == self._seen:
            return "unchanged"
        self._seen = data
        try:
            snapshot = await asyncio.to_thread(self._snapshot, data)
        except PolicyError as exc:
            return self._failed(exc.message)
        except Exception as exc:  # noqa: BLE001  whatever `build` does, the policy in force stays in force
            return self._failed(f"{self.source}: the guards could not be built ({type(exc).__name__})")
        self.current = snapshot
        self.error = None
        log.info("policy %r from %s is in force (%s)", snapshot.policy.name, self.source, snapshot.hash)
        self._tell("loaded")
        return "loaded"

    async def run(self) -> None:
        """Check for ever; ends only by cancellation. The owner keeps the task and awaits it on shutdown."""
        if self._path is None:
            return
        while True:
            await self._clock.sleep(self._interval)
            await self.check()

    def _snapshot(self, data: bytes) -> PolicySnapshot[T]:
        policy = parse_policy(data, source=self.source)
        return PolicySnapshot(policy, policy_hash(policy), self._build(policy), self._clock.now())

    def _failed(self, reason: str) -> ReloadResult:
        if reason == self.error:
            return "unchanged"  # said once; a missing file is not news every second
        self.error = reason
        log.warning("policy not reloaded, %s stays in force: %s", self.current.hash, reason)
        self._tell("failed")
        return "failed"

    def _tell(self, result: ReloadResult) -> None:
        if self.on_reload is not None:
            self.on_reload(result, self.current)


def _stamp(path: Path) -> tuple[int, ...] | None:
    """What changes when a file does: modification time (ns), inode, size; ``None`` if it is not there."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size
