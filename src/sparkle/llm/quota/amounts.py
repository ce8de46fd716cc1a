"""From tokens to what is held and booked on each meter."""

from __future__ import annotations

from collections.abc import Sequence

from sparkle.llm.quota.ops import MONEY, TOKENS, Charge, Entry, Hold, Settle
from sparkle.llm.quota.prices import Price
from sparkle.llm.quota.types import Reservation
from sparkle.llm.usage import Usage

#: Above every real count; keeps tokens times price within what the stores can add up.
MOST_TOKENS = 2**31
NOTHING = Usage(0, 0)


def clamped(usage: Usage) -> Usage:
    """An upstream's numbers are input like any other: negative is nothing, absurd is the largest that is counted."""
    prompt = min(max(0, usage.prompt_tokens), MOST_TOKENS)
    completion = min(max(0, usage.completion_tokens), MOST_TOKENS)
    if prompt == usage.prompt_tokens and completion == usage.completion_tokens:
        return usage
    return Usage(prompt, completion, usage.estimated)


def holds_on(charges: Sequence[Charge], amounts: Sequence[tuple[int, int]], answer: int) -> tuple[Hold, ...]:
    """What a reservation with ``answer`` tokens a choice holds on each meter; rates hold nothing."""
    holds: list[Hold] = []
    for charge in charges:
        if charge.measure < len(amounts):
            base, unit = amounts[charge.measure]
            holds.append(Hold(charge.key, charge.measure, base + unit * answer, charge.expires))
    return tuple(holds)


def spent_on(holds: Sequence[Hold], usage: Usage, price: Price) -> tuple[int, ...]:
    """What ``usage`` is in the measure of each hold; a place among the running calls is not spent."""
    tokens = usage.prompt_tokens + usage.completion_tokens
    return tuple(
        tokens
        if hold.measure == TOKENS
        else price.cost(usage.prompt_tokens, usage.completion_tokens)
        if hold.measure == MONEY
        else 0
        for hold in holds
    )


def settlement_of(reservation: Reservation, usage: Usage, price: Price) -> Settle | None:
    """What the store has to be told when a call ends; ``None`` when it holds nothing there."""
    if not reservation.holds:
        return None
    spent = spent_on(reservation.holds, usage, price)
    entries = (
        Entry(h.key, h.held, actual, h.expires) for h, actual in zip(reservation.holds, spent, strict=True)
    )
    return Settle(reservation.id, tuple(entries))
