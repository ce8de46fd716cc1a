"""The arithmetic of quotas, without input or output.

:func:`apply` is the only place where a decision is made (the Lua script repeats it for Valkey; the
conformance suite and a differential property test hold the two together). Invariants:

* ``spent + reserved <= limit`` on every meter after every grant; only an upstream that uses more than was
  reserved takes ``spent`` beyond it.
* A reserve takes on all of its charges or on none.
* In any 60 seconds a rate meter admits at most its limit.
* A reservation leaves ``reserved`` exactly once: settled, cancelled or reaped.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Protocol

from sparkle.llm.quota.ops import (
    LATE_MS,
    MAX_AMOUNT,
    RATE,
    RATE_GRAIN_MS,
    RATE_WINDOW_MS,
    Batch,
    Beat,
    Cancel,
    Charge,
    Done,
    Granted,
    Hold,
    Leave,
    Look,
    Refused,
    Reserve,
    Result,
    Seen,
    Settle,
    State,
)


class Meter:
    """What is spent and held on one key. ``log`` is the rate meter's: ``[first_ms, last_ms, count]`` in time
    order.
    """

    __slots__ = ("dirty", "expires", "log", "reserved", "spent")

    def __init__(
        self, spent: int = 0, reserved: int = 0, expires: int = 0, log: list[list[int]] | None = None
    ) -> None:
        self.spent = spent
        self.reserved = reserved
        self.expires = expires
        self.log: list[list[int]] = log or []
        self.dirty = False


class Ledger(Protocol):
    """What the engine asks of a store inside one transaction."""

    def meter(self, key: str) -> Meter:
        """The meter, empty if new. Those left ``dirty`` are written back when the transaction ends."""
        ...

    def add(self, reservation: str, owner: str, holds: tuple[Hold, ...]) -> None:
        """Write a live reservation."""
        ...

    def take(self, reservation: str) -> bool:
        """Remove a live reservation; False if there is none."""
        ...

    def held(self, reservation: str) -> tuple[Hold, ...] | None:
        """What a live reservation holds."""
        ...

    def held_by(self, owner: str) -> Sequence[tuple[str, tuple[Hold, ...], tuple[int, ...]]]:
        """An owner's live reservations with their progress (empty tuple: none known)."""
        ...

    def set_progress(self, reservation: str, amounts: tuple[int, ...]) -> None:
        """Note what a live reservation is known to have spent on each hold; unknown ids are ignored."""
        ...

    def add_late(self, reservation: str, charged: tuple[int, ...], expires: int) -> None:
        """Remember what a reaped (or, empty, a cancelled) reservation was charged; what is known already stays."""
        ...

    def take_late(self, reservation: str) -> tuple[int, ...] | None:
        """Forget a reaped reservation and return what it was charged."""
        ...

    def was_cancelled(self, reservation: str) -> bool:
        """Whether a reservation was ended before it arrived; a store that no batch can reach late just says
        no.
        """
        ...

    def owner(self, owner: str) -> tuple[int, int] | None:
        """``(lease_until, beat_at)``."""
        ...

    def owners(self) -> Iterable[tuple[str, int]]:
        """Every owner with its ``lease_until``."""
        ...

    def put_owner(self, owner: str, lease_until: int, beat_at: int) -> None:
        """Write an owner's lease."""
        ...

    def drop_owner(self, owner: str) -> None:
        """Remove an owner."""
        ...


def apply(ledger: Ledger, batch: Batch, now: int) -> list[Result]:
    """Apply a batch at ``now`` (ms) and return one result for each operation."""
    results: list[Result] = []
    leased = False
    for op in batch.ops:
        kind = type(op)
        if kind is Reserve:
            assert isinstance(op, Reserve)  # noqa: S101 - narrows the type for the checker only
            if not leased:
                _lease(ledger, batch, now)
                leased = True
            results.append(_reserve(ledger, batch.owner, op, now))
        elif isinstance(op, Settle):
            results.append(_settle(ledger, op))
        elif isinstance(op, Beat):
            results.append(_beat(ledger, batch, op, now))
        elif isinstance(op, Look):
            results.append(Seen(tuple(_state(ledger, c, now) for c in op.charges)))
        elif isinstance(op, Cancel):
            results.append(_cancel(ledger, op, now))
        else:
            assert isinstance(op, Leave)  # noqa: S101 - the union ends here
            results.append(_leave(ledger, batch.owner))
    return results


def _reserve(ledger: Ledger, owner: str, op: Reserve, now: int) -> Granted | Refused:
    if ledger.was_cancelled(op.id):
        return Refused(-1, 0, 0, 0)
    answer, meters = op.hi, list[Meter]()
    for index, charge in enumerate(op.charges):
        meter = ledger.meter(charge.key)
        meters.append(meter)
        if charge.measure == RATE:
            used = _trim(meter, now)
            if used >= charge.limit:
                return Refused(index, used, 0, _next_slot(meter, used, charge.limit))
            continue
        base, unit = op.amounts[charge.measure]
        free = charge.limit - meter.spent - meter.reserved - base
        if free < unit * op.lo:
            return Refused(index, meter.spent, meter.reserved, 0)
        if free < unit * answer:
            answer = free // unit
    holds: list[Hold] = []
    states: list[State] = []
    for charge, meter in zip(op.charges, meters, strict=True):
        meter.dirty = True
        if charge.measure == RATE:
            _count(meter, now)
            states.append((sum(e[2] for e in meter.log), 0, now + RATE_WINDOW_MS))
            continue
        base, unit = op.amounts[charge.measure]
        amount = base + unit * answer
        meter.reserved += amount
        meter.expires = charge.expires
        holds.append(Hold(charge.key, charge.measure, amount, charge.expires))
        states.append((meter.spent, meter.reserved, 0))
    # A call that only counts against a rate leaves nothing to settle.
    if holds:
        ledger.add(op.id, owner, tuple(holds))
    return Granted(answer, tuple(states))


def _trim(meter: Meter, now: int) -> int:
    """Drop what left the window; return how many requests are in it."""
    log, horizon = meter.log, now - RATE_WINDOW_MS
    stale = 0
    for entry in log:
        if entry[1] > horizon:
            break
        stale += 1
    if stale:
        del log[:stale]
    used = 0
    for entry in log:
        # The clock was set back: nothing happened after now, so nothing may block for longer than a window.
        # Written back even if the request is refused, or the wait would begin anew with every try.
        if entry[1] > now:
            meter.dirty = True
            meter.expires = now + 2 * RATE_WINDOW_MS
            entry[1] = now
            entry[0] = min(entry[0], now)
        used += entry[2]
    return used


def _count(meter: Meter, now: int) -> None:
    """Note one request. Requests within a second share an entry, which counts until its last one leaves the
    window.
    """
    log = meter.log
    if log and now - log[-1][0] < RATE_GRAIN_MS:
        log[-1][1] = now
        log[-1][2] += 1
    else:
        log.append([now, now, 1])
    meter.expires = now + 2 * RATE_WINDOW_MS


def _next_slot(meter: Meter, used: int, limit: int) -> int:
    """When one more request fits, in ms."""
    free_at = 0
    for _, last, count in meter.log:
        used -= count
        free_at = last + RATE_WINDOW_MS
        if used < limit:
            break
    return free_at


def _settle(ledger: Ledger, op: Settle) -> Done:
    if ledger.take(op.id):
        for entry in op.entries:
            _book(ledger.meter(entry.key), entry.held, entry.actual, entry.expires)
        return Done(1)
    charged = ledger.take_late(op.id)
    if charged is None:
        return Done(0)
    # Reaped while the call was still running: what it held is gone already, what it used beyond the charge is
    # not.
    for index, entry in enumerate(op.entries):
        before = charged[index] if index < len(charged) else 0
        _book(ledger.meter(entry.key), 0, max(0, entry.actual - before), entry.expires)
    return Done(2)


def _book(meter: Meter, held: int, actual: int, expires: int) -> None:
    meter.reserved = max(0, meter.reserved - held)
    meter.spent = min(MAX_AMOUNT, meter.spent + actual)
    meter.expires = expires
    meter.dirty = True


def _cancel(ledger: Ledger, op: Cancel, now: int) -> Done:
    holds = ledger.held(op.id)
    if holds is None:
        ledger.add_late(op.id, (), now + LATE_MS)
        return Done(0)
    ledger.take(op.id)
    for hold in holds:
        _book(ledger.meter(hold.key), hold.held, 0, hold.expires)
    return Done(1)


def _state(ledger: Ledger, charge: Charge, now: int) -> State:
    meter = ledger.meter(charge.key)
    if charge.measure != RATE:
        return (meter.spent, meter.reserved, 0)
    used = _trim(meter, now)
    return (used, 0, meter.log[-1][1] + RATE_WINDOW_MS if meter.log else now)


def _lease(ledger: Ledger, batch: Batch, now: int) -> None:
    """An owner that reserves has a lease; one that was reaped (a stopped process, say) gets a new one."""
    known = ledger.owner(batch.owner)
    if known is None or known[0] - now < batch.lease_ms * 2 // 3:
        ledger.put_owner(batch.owner, now + batch.lease_ms, known[1] if known else 0)


def _beat(ledger: Ledger, batch: Batch, op: Beat, now: int) -> Done:
    known = ledger.owner(batch.owner)
    ledger.put_owner(batch.owner, now + batch.lease_ms, now)
    for reservation, amounts in op.progress:
        ledger.set_progress(reservation, amounts)
    # After an outage of the store, a suspended machine or a clock set forward every lease looks expired.
    # Whoever was not heard for long itself gives the others one more beat before it calls them dead.
    if known is None or not batch.lease_ms // 6 <= now - known[1] <= batch.lease_ms * 2 // 3:
        return Done(0)
    reaped = 0
    for owner, lease_until in tuple(ledger.owners()):
        if owner == batch.owner:
            continue
        if lease_until <= now:
            reaped += _reap(ledger, owner, now)
        elif lease_until > now + 2 * batch.lease_ms:
            # The clock was set back: no lease may outlive its owner by more than its own length.
            ledger.put_owner(owner, now + batch.lease_ms, now)
    return Done(reaped)


def _reap(ledger: Ledger, owner: str, now: int) -> int:
    """Charge what is known to be spent, give back the rest."""
    reaped = 0
    for reservation, holds, progress in ledger.held_by(owner):
        ledger.take(reservation)
        charged = progress or (0,) * len(holds)
        for hold, spent in zip(holds, charged, strict=True):
            _book(ledger.meter(hold.key), hold.held, spent, hold.expires)
        ledger.add_late(reservation, charged, now + LATE_MS)
        reaped += 1
    ledger.drop_owner(owner)
    return reaped


def _leave(ledger: Ledger, owner: str) -> Done:
    if ledger.held_by(owner):
        return Done(0)
    ledger.drop_owner(owner)
    return Done(1)
