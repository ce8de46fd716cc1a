"""Which limits apply to a caller, and how a refusal is told.

Order of checking, and so of refusing: what lasts longest first (money per month, money per day, tokens per
day, requests per minute, concurrency), so that nobody is told to retry in a minute when the day is used up;
within one kind user, key, team, total.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from decimal import Decimal

from sparkle.errors import (
    ConcurrencyLimitError,
    ConfigurationError,
    LimitError,
    QuotaExceededError,
    RateLimitError,
)
from sparkle.llm.quota.ops import MAX_AMOUNT, RATE, RATE_WINDOW_MS, Charge, Refused, State
from sparkle.llm.quota.types import MEASURE_OF, UNIT_OF, LimitKind, LimitState, Scope
from sparkle.llm.quota.windows import Calendar, Window
from sparkle.llm.usage import Principal
from sparkle.settings import QuotaSettings, ScopeLimits

#: Seconds after which a call that was refused for others in flight may try again.
HELD_RETRY_SECONDS = 1.0
NANO = 10**9
_DAY_MS = 86_400_000
_LONGEST_ID = 128
_PLANS = 4_096

_SCOPE_NAMES: dict[Scope, str] = {
    "user": "per user",
    "key": "per API key",
    "team": "per team",
    "total": "in total",
}
_KIND_NAMES: dict[LimitKind, str] = {
    "usd_per_month": "Monthly budget",
    "usd_per_day": "Daily budget",
    "tokens_per_day": "Daily token quota",
    "requests_per_minute": "Rate limit",
    "concurrency": "Concurrency limit",
}


@dataclass(frozen=True, slots=True)
class Limit:
    """One configured limit of one scope."""

    kind: LimitKind
    scope: Scope
    amount: int


@dataclass(frozen=True, slots=True)
class Plan:
    """What is charged for one caller until ``valid_until``: limits and charges stand in the same order."""

    limits: tuple[Limit, ...]
    charges: tuple[Charge, ...]
    resets: tuple[float, ...]
    """Unix seconds at which each window ends; 0 for sliding ones."""
    valid_from: float
    valid_until: float


class LimitBook:
    """The configured limits, and the plan for each caller.

    Raises:
        ConfigurationError: Unknown timezone, or an amount too large to count exactly.
    """

    def __init__(self, settings: QuotaSettings) -> None:
        self.calendar = Calendar(settings.timezone)
        self._limits = _configured(settings)
        self._plans: dict[tuple[str, str | None, str | None], Plan] = {}

    def plan(self, who: Principal, now: float) -> Plan:
        """The limits that apply to ``who`` at ``now`` (Unix seconds)."""
        key = (who.user, who.key_id, who.team)
        plan = self._plans.get(key)
        if plan is not None and plan.valid_from <= now < plan.valid_until:
            return plan
        if len(self._plans) >= _PLANS:
            self._plans.clear()
        plan = self._plans[key] = self._build(who, now)
        return plan

    def _build(self, who: Principal, now: float) -> Plan:
        day, month = self.calendar.day(now), self.calendar.month(now)
        subjects: dict[Scope, str | None] = {
            "user": who.user,
            "key": who.key_id,
            "team": who.team,
            "total": "",
        }
        limits: list[Limit] = []
        charges: list[Charge] = []
        resets: list[float] = []
        for limit in self._limits:
            subject = subjects[limit.scope]
            if subject is None:
                continue
            window = day if limit.kind.endswith("_day") else month if limit.kind.endswith("_month") else None
            limits.append(limit)
            charges.append(_charge(limit, subject, window))
            resets.append(window.end if window else 0.0)
        return Plan(tuple(limits), tuple(charges), tuple(resets), day.start, day.end)


def _configured(settings: QuotaSettings) -> tuple[Limit, ...]:
    own = ScopeLimits(
        tokens_per_day=settings.tokens_per_day,
        requests_per_minute=settings.requests_per_minute,
        concurrency=settings.concurrency,
        usd_per_day=settings.usd_per_day,
        usd_per_month=settings.usd_per_month,
    )
    scopes: dict[Scope, ScopeLimits] = {
        "user": own,
        "key": settings.key,
        "team": settings.team,
        "total": settings.total,
    }
    found: list[Limit] = []
    for kind in MEASURE_OF:
        for scope, section in scopes.items():
            value: float = getattr(section, kind)
            if not value:
                continue
            amount = int(Decimal(str(value)) * NANO) if kind.startswith("usd") else int(value)
            if amount > MAX_AMOUNT:
                largest = MAX_AMOUNT // NANO if kind.startswith("usd") else MAX_AMOUNT
                raise ConfigurationError(
                    f"quota limit {kind} ({scope}) is above {largest}, the largest that is exact"
                )
            # A positive limit that rounds to nothing still is a limit.
            found.append(Limit(kind, scope, max(1, amount)))
    return tuple(found)


def _charge(limit: Limit, subject: str, window: Window | None) -> Charge:
    label = window.label if window else "-"
    expires = int(window.end * 1000) + 2 * _DAY_MS if window else 0
    # The caller's part stands last, so that no choice of name can reach another meter.
    key = f"{limit.kind}:{label}:{limit.scope}:{_bounded(subject)}"
    return Charge(key, MEASURE_OF[limit.kind], limit.amount, expires)


def _bounded(subject: str) -> str:
    """A name of any length and content as a key of bounded length that every store can encode."""
    raw = subject.encode("utf-8", "surrogatepass")
    if len(raw) <= _LONGEST_ID and not subject.startswith("#") and subject.isprintable():
        return subject
    return "#" + hashlib.blake2b(raw, digest_size=16).hexdigest()


def states(plan: Plan, seen: tuple[State, ...], now: float) -> tuple[LimitState, ...]:
    """What the store said, in the words of the settings."""
    found: list[LimitState] = []
    for limit, reset, (used, reserved, reset_ms) in zip(plan.limits, plan.resets, seen, strict=True):
        left = limit.amount - used - reserved
        reset_at = reset or (reset_ms / 1000 if reset_ms else now)
        found.append(
            LimitState(limit.kind, limit.scope, limit.amount, used, reserved, max(0, left), reset_at)
        )
    return tuple(found)


def refusal(plan: Plan, refused: Refused, wanted: int, now: float, calendar: Calendar) -> LimitError:
    """The error for a call that does not fit.

    A quota that is only *held* by calls in flight, not spent, is a rate limit: a retry in a moment may
    succeed, and telling the caller to wait for tomorrow would be wrong.

    Args:
        plan: The caller's limits.
        refused: The store's answer.
        wanted: What the call asked of the limit that refused it, at least.
        now: Unix seconds.
        calendar: Tells the reset time.
    """
    limit, reset = plan.limits[refused.index], plan.resets[refused.index]
    used, reserved = refused.used, refused.reserved
    measure = MEASURE_OF[limit.kind]
    name, scope = _KIND_NAMES[limit.kind], _SCOPE_NAMES[limit.scope]
    kind: type[LimitError] = QuotaExceededError
    if measure == RATE:
        kind = RateLimitError
        reset = refused.retry_ms / 1000 if refused.retry_ms else now + RATE_WINDOW_MS / 1000
        retry = reset - now
        message = f"{name} reached: {limit.amount:,} requests per minute {scope}; retry in {retry:.1f} s."
    elif limit.kind == "concurrency":
        kind, retry, reset = ConcurrencyLimitError, HELD_RETRY_SECONDS, now
        message = (
            f"{name} reached: {reserved:,} of {limit.amount:,} calls at the same time {scope} are running."
        )
    else:
        spent, whole, asked = (_show(limit.kind, n) for n in (used, limit.amount, wanted))
        retry = reset - now
        until = f"resets at {calendar.show(reset)}"
        if wanted > limit.amount:
            message = f"This call may need {asked}, more than the {name.lower()} of {whole} {scope}; lower max_tokens."
        elif used + wanted <= limit.amount:
            kind, retry = RateLimitError, HELD_RETRY_SECONDS
            held = _show(limit.kind, reserved)
            message = (
                f"{name} {scope}: {spent} of {whole} used, {held} held by calls that are still running; "
                f"this call may need {asked}. Retry when they end; {until}."
            )
        elif used >= limit.amount:
            message = f"{name} used up: {spent} of {whole} {scope}; {until}."
        else:
            message = (
                f"{name} nearly used up: {spent} of {whole} {scope}, and this call may need {asked}; "
                f"lower max_tokens or wait: {until}."
            )
    return kind(
        message,
        retry_after=max(0.001, retry),
        details={
            "limit_name": limit.kind,
            "scope": limit.scope,
            "unit": UNIT_OF[limit.kind],
            "limit": limit.amount,
            "used": used,
            "reserved": reserved,
            "requested": wanted,
            "reset_at": reset,
        },
    )


def _show(kind: LimitKind, amount: int) -> str:
    if kind.startswith("usd"):
        # Money is shown to the hundredth of a cent, more only when less would read as zero.
        return (
            f"${amount / NANO:,.4f}" if amount == 0 or amount >= NANO // 10_000 else f"${amount / NANO:.9f}"
        )
    return f"{amount:,} tokens"
