"""The language between the guard and a store: a batch of operations in, a result for each out.

A store applies one batch as one atomic step. Everything here is msgspec ``array_like``, so that the same
objects are walked by the Python engine and, as MessagePack arrays, by the Lua script. All amounts are
integers: tokens, nano-US-dollars, calls. All times are integers in milliseconds since the Unix epoch, in the
store's time.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

from msgspec import Struct

from sparkle.errors import StoreUnavailableError

TOKENS, MONEY, CALLS, RATE = 0, 1, 2, 3
"""What a charge measures: an index into :attr:`Reserve.amounts`, except ``RATE``, which always counts one
request.
"""

RATE_WINDOW_MS = 60_000
RATE_GRAIN_MS = 1_000
LATE_MS = 24 * 3_600_000
"""How long a reaped reservation is remembered, so that a late settlement is still recorded."""

#: Largest amount the arithmetic carries: Lua has only doubles.
MAX_AMOUNT = 2**53 - 1


class Charge(Struct, frozen=True, array_like=True):
    """One limit that a call must fit into."""

    key: str
    """The meter, e.g. ``tokens_per_day:2026-11-22:user:alice``."""
    measure: int
    limit: int
    expires: int
    """When the meter may be forgotten; 0: as soon as it is empty."""


class Hold(Struct, frozen=True, array_like=True):
    """What one reservation holds on one meter."""

    key: str
    measure: int
    held: int
    expires: int


class Entry(Struct, frozen=True, array_like=True):
    """One line of a settlement: give back ``held``, record ``actual``."""

    key: str
    held: int
    actual: int
    expires: int


class Reserve(Struct, frozen=True, array_like=True, tag="r"):
    """Hold ``base + unit * answer`` on every charge, or nothing at all.

    ``answer`` (tokens) is the largest in ``[lo, hi]`` that every charge allows.
    """

    id: str
    charges: tuple[Charge, ...]
    amounts: tuple[tuple[int, int], tuple[int, int], tuple[int, int]]
    """``(base, unit)`` for tokens, money and calls."""
    lo: int
    hi: int


class Settle(Struct, frozen=True, array_like=True, tag="s"):
    """End a reservation. Unknown ids change nothing; a reaped one still has its usage recorded."""

    id: str
    entries: tuple[Entry, ...]


class Cancel(Struct, frozen=True, array_like=True, tag="c"):
    """End a reservation of which nobody knows whether the store has seen it; it must not appear afterwards
    either.
    """

    id: str


class Beat(Struct, frozen=True, array_like=True, tag="b"):
    """Extend the owner's lease, persist progress, reap the dead."""

    progress: tuple[tuple[str, tuple[int, ...]], ...] = ()
    """``(reservation id, amount known to be spent on each of its holds)``."""


class Leave(Struct, frozen=True, array_like=True, tag="l"):
    """End the owner's lease if it holds nothing any more."""


class Look(Struct, frozen=True, array_like=True, tag="v"):
    """Read the meters of some charges."""

    charges: tuple[Charge, ...]


Op = Reserve | Settle | Cancel | Beat | Leave | Look


class Batch(Struct, frozen=True, array_like=True):
    """Operations of one owner (one process) that are applied together, in order."""

    owner: str
    lease_ms: int
    ops: tuple[Op, ...]


State = tuple[int, int, int]
"""``(used, reserved, reset_ms)`` of one meter; ``reset_ms`` is only filled for ``RATE``."""


class Granted(Struct, frozen=True, array_like=True, tag="g"):
    """The reservation is held."""

    answer: int
    """Tokens per choice."""
    states: tuple[State, ...]
    """One for each charge, after reserving."""


class Refused(Struct, frozen=True, array_like=True, tag="n"):
    """Nothing is held."""

    index: int
    """The first charge that does not fit; -1 when the reservation was cancelled before it arrived."""
    used: int
    reserved: int
    retry_ms: int
    """``RATE`` only: when the next request fits."""


class Done(Struct, frozen=True, array_like=True, tag="d"):
    """Answer to the other operations."""

    count: int
    """Settle, Cancel: 1 live, 2 late, 0 unknown. Beat: reservations reaped. Leave: 1 when the lease ended."""


class Seen(Struct, frozen=True, array_like=True, tag="v"):
    """Answer to :class:`Look`, one state for each charge."""

    states: tuple[State, ...]


Result = Granted | Refused | Done | Seen


class StoreBusyError(Exception):
    """Another process holds the store for a moment; nothing was applied, try again."""


class OutcomeUnknownError(StoreUnavailableError):
    """The quota store stopped answering in the middle of a batch; whether it was applied is unknown."""


class QuotaStore(Protocol):
    """Where reservations live. One conformance suite holds for every implementation."""

    @property
    def offset(self) -> float:
        """Store time minus this process's clock, in seconds (0 where they are the same clock)."""
        ...

    async def start(self) -> None:
        """Connect and prepare. Raises StoreUnavailableError."""
        ...

    async def apply(self, batch: Batch) -> list[Result]:
        """Apply all operations as one atomic step and return one result for each.

        Raises:
            StoreBusyError: Nothing was applied; try again in a moment.
            OutcomeUnknownError: The store went away meanwhile; the batch was applied wholly or not at all.
            StoreUnavailableError: The store does not answer; nothing was applied.
        """
        ...

    async def maintain(self) -> None:
        """Housekeeping that must not hold up calls; called with every heartbeat."""
        ...

    async def close(self) -> None:
        """Close connections. Idempotent."""
        ...


@runtime_checkable
class AtOnceStore(Protocol):
    """A store that needs not wait for anybody: it lives in this process."""

    def apply_at_once(self, batch: Batch) -> list[Result]:
        """:meth:`QuotaStore.apply` without an event loop, with the same errors."""
        ...
