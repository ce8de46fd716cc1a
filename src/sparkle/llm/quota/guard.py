"""Layer 2: what a call may use is reserved before it and settled after it. Fails closed.

The guard turns a call into one atomic operation for the store (:mod:`~sparkle.llm.quota.ops`), the store
decides (:mod:`~sparkle.llm.quota.engine`), and what really was used is recorded without making the answer
wait.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
from collections.abc import Callable, Mapping, Sequence

from sparkle.clock import Clock
from sparkle.errors import InvalidRequestError, StoreUnavailableError
from sparkle.llm.quota.amounts import MOST_TOKENS, NOTHING, clamped, holds_on, settlement_of, spent_on
from sparkle.llm.quota.commit import GroupCommit
from sparkle.llm.quota.limits import LimitBook, refusal, states
from sparkle.llm.quota.ops import (
    Beat,
    Cancel,
    Granted,
    Leave,
    Look,
    QuotaStore,
    Refused,
    Reserve,
    Seen,
    Settle,
)
from sparkle.llm.quota.prices import Price, PriceTable
from sparkle.llm.quota.types import LimitState, Reservation, Settlement
from sparkle.llm.usage import Principal, Usage
from sparkle.settings import QuotaSettings

_log = logging.getLogger(__name__)

_NO_STATES: tuple[LimitState, ...] = ()
_MOST_CHOICES = 128


def _random_id() -> str:
    return secrets.token_hex(8)


class LLMCostGuard:
    """Quota and cost of every call.

    One guard belongs to one process and one event loop: build it after a fork, ``await start()`` it there.

    Args:
        settings: The limits.
        store: Where reservations live, shared by all processes (:func:`~sparkle.llm.quota.open_store`).
        prices: What models cost.
        clock: Wall time decides windows; its sleep paces the heartbeat.
        new_id: Makes the id under which this process owns reservations.

    Raises:
        ConfigurationError: The settings do not make sense (unknown timezone, a limit too large to count).
    """

    def __init__(
        self,
        settings: QuotaSettings,
        store: QuotaStore,
        prices: PriceTable,
        *,
        clock: Clock,
        new_id: Callable[[], str] = _random_id,
    ) -> None:
        self._settings = settings
        self._store = store
        self._prices = prices
        self._clock = clock
        self._book = LimitBook(settings)
        self._most = min(settings.default_max_output_tokens, settings.max_output_tokens)
        self._least = min(settings.min_output_tokens, self._most)
        self.owner = new_id()
        """Id of this process in the store."""
        self._count = 0
        self._live: dict[str, Reservation] = {}
        self._progress: dict[str, Usage] = {}
        self._commit = GroupCommit(
            store, self.owner, max(1, int(settings.lease_seconds * 1000)), calls=self._live.__len__
        )
        self._heart: asyncio.Task[None] | None = None

    @property
    def usual_answer(self) -> int:
        """Largest answer, in tokens, held for a call whose caller set no ``max_tokens``."""
        return self._most

    async def start(self) -> None:
        """Connect, take the lease, begin the heartbeat.

        Raises:
            StoreUnavailableError: The store does not answer.
        """
        await self._store.start()
        self._commit.start()
        await self.beat()
        self._heart = asyncio.create_task(self._keep_beating(), name="quota-heartbeat")

    async def close(self, timeout: float = 5.0) -> None:
        """Record what is queued, end the lease, disconnect. Idempotent.

        Calls that are still running keep what they hold: their last progress is written, and once the lease
        has run out another process charges it and gives the rest back.
        """
        heart, self._heart = self._heart, None
        if heart is None:
            return
        heart.cancel()
        await asyncio.wait([heart])
        try:
            async with asyncio.timeout(timeout):
                await self._commit.submit(Beat(self._in_store_terms(self._progress)))
                await self._commit.flush(timeout)
                await self._commit.submit(Leave())
        except (StoreUnavailableError, TimeoutError):
            _log.warning("quota store does not answer at shutdown; its lease runs out by itself")
        if self._commit.unrecorded:
            _log.error("%d settlements were not recorded at shutdown", self._commit.unrecorded)
        await self._commit.close()
        await self._store.close()

    async def reserve(
        self,
        who: Principal,
        *,
        model: str,
        prompt_tokens: int,
        max_output_tokens: int | None,
        choices: int = 1,
    ) -> Reservation:
        """Hold what the call may use at most, on every limit or on none.

        Args:
            who: Whom the call is charged to.
            model: Decides the price.
            prompt_tokens: Tokens of the prompt as counted (:class:`~sparkle.llm.quota.TokenCounter`).
            max_output_tokens: Largest answer per choice in tokens, held exactly or refused. ``None``: the
                caller set none; as much of ``default_max_output_tokens`` as is left, but at least
                ``min_output_tokens``.
            choices: Answers asked for (OpenAI's ``n``).

        Returns:
            The reservation. Its ``max_output_tokens`` is the cap to send upstream.

        Raises:
            InvalidRequestError: An amount out of range (``max_tokens`` above ``quota.max_output_tokens``,
                ``n``).
            QuotaExceededError: A quota or budget is used up; ``retry_after`` leads to its reset.
            RateLimitError: Too many requests in 60 seconds, or the quota is held by calls in flight.
            ConcurrencyLimitError: Too many calls at the same time.
            StoreUnavailableError: The store does not answer.
        """
        if max_output_tokens is None:
            least, most = self._least, self._most
        else:
            least = most = max_output_tokens
            self._check(max_output_tokens, choices)
        if not (0 <= prompt_tokens <= MOST_TOKENS and 1 <= choices <= _MOST_CHOICES):
            self._check(most, choices)
            raise InvalidRequestError("The prompt is too long.", param="messages")
        now = self._now()
        plan = self._book.plan(who, now)
        price = self._prices.price(model)
        self._count += 1
        name = f"{self.owner}-{self._count:x}"
        answer, limits, holds = most, _NO_STATES, ()
        if plan.charges:
            amounts = (
                (prompt_tokens, choices),
                (price.cost(prompt_tokens, 0), price.cost(0, choices)),
                (1, 0),
            )
            waiter = self._commit.submit(Reserve(name, plan.charges, amounts, least, most))
            try:
                result = await waiter
            except asyncio.CancelledError:
                # Granted in the same moment in which the caller went away.
                if waiter.done() and not waiter.cancelled() and waiter.exception() is None:
                    self._commit.post(Cancel(name))
                raise
            if not isinstance(result, Granted):
                assert isinstance(result, Refused)  # noqa: S101 - a reserve has no other answer
                if result.index < 0:
                    raise StoreUnavailableError(retry_after=1.0)
                charge = plan.charges[result.index]
                base, unit = amounts[charge.measure] if charge.measure < len(amounts) else (1, 0)
                raise refusal(plan, result, base + unit * least, now, self._book.calendar)
            answer = result.answer
            limits = states(plan, result.states, now)
            holds = holds_on(plan.charges, amounts, answer)
        reservation = Reservation(
            id=name,
            principal=who,
            model=model,
            prompt_tokens=prompt_tokens,
            max_output_tokens=answer,
            choices=choices,
            tokens=prompt_tokens + choices * answer,
            cost_nano=price.cost(prompt_tokens, choices * answer),
            created_at=now,
            limits=limits,
            holds=holds,
        )
        self._live[name] = reservation
        return reservation

    def dearest(self, models: Sequence[str]) -> str:
        """The model of ``models`` whose answer costs most, so that a fallback cannot pass a budget by."""
        if len(models) == 1:
            return models[0]
        return max(models, key=lambda model: self._prices.price(model).cost(1_000, 1_000))

    async def settle(self, reservation: Reservation, usage: Usage, model: str | None = None) -> Settlement:
        """Record what was used and give back the rest. Idempotent: the first settlement or release counts.

        Returns when the store has it, so that an answer that leaves afterwards is never unpaid for; a store that is
        down or busy does not hold the answer up: the settlement is kept and recorded as soon as it can be. More than
        was reserved is recorded as it is. Whoever stops waiting takes nothing back.

        Args:
            reservation: What :meth:`reserve` returned.
            usage: What was used.
            model: The model that answered, where it is not the one that was reserved for; ignored without a price.

        Raises:
            StoreUnavailableError: The guard is closed and can record nothing.
        """
        usage = clamped(usage)
        price = self._prices.price(reservation.model if model is None else model)
        if not price.known:
            price = self._prices.price(reservation.model)
        cost = price.cost(usage.prompt_tokens, usage.completion_tokens)
        first = reservation.id in self._live
        settle = self._end(reservation, usage, price)
        if settle is not None:
            await self._commit.record(settle)
        return Settlement(reservation.id, usage, cost, reservation.tokens - usage.total_tokens, first)

    async def release(self, reservation: Reservation) -> None:
        """End a reservation of a call that spent nothing. The request itself stays counted against the rate.

        Raises:
            StoreUnavailableError: The guard is closed and can record nothing.
        """
        settle = self._end(reservation, NOTHING, self._prices.price(reservation.model))
        if settle is not None:
            self._commit.post(settle)

    def abandon(self, reservation: Reservation, usage: Usage = NOTHING) -> None:
        """End a reservation whose call broke off, charging ``usage``; does nothing if it has ended already."""
        if reservation.id in self._live:
            settle = self._end(reservation, clamped(usage), self._prices.price(reservation.model))
            if settle is not None:
                self._commit.post(settle)

    def progress(self, reservation: Reservation, usage_so_far: Usage) -> None:
        """Note what a running call is known to have used, should this process die. Costs next to nothing."""
        if reservation.id in self._live:
            self._progress[reservation.id] = usage_so_far

    async def snapshot(self, who: Principal) -> tuple[LimitState, ...]:
        """Every limit that applies to ``who``, as the store has it now. Raises StoreUnavailableError."""
        now = self._now()
        plan = self._book.plan(who, now)
        if not plan.charges:
            return ()
        result = await self._commit.submit(Look(plan.charges))
        assert isinstance(result, Seen)  # noqa: S101 - a look has no other answer
        return states(plan, result.states, now)

    async def ready(self) -> None:
        """Make sure that the store takes writes. Raises StoreUnavailableError."""
        await self._commit.submit(Look(()))

    async def beat(self) -> None:
        """One heartbeat: extend the lease, persist progress, reap the dead. Raises StoreUnavailableError."""
        news, self._progress = self._progress, {}
        try:
            await self._commit.submit(Beat(self._in_store_terms(news)))
        except BaseException:
            # Not persisted: keep it for the next beat, unless something newer came or the call has ended.
            for name, usage in news.items():
                if name in self._live:
                    self._progress.setdefault(name, usage)
            raise
        await self._store.maintain()

    async def _keep_beating(self) -> None:
        while True:
            await self._clock.sleep(self._settings.lease_seconds / 3)
            try:
                await self.beat()
            except StoreUnavailableError:
                # Said once by the group commit; the lease is taken again when the store is back.
                continue
            except Exception:  # noqa: BLE001 - a beat that failed must not be the last: others would reap this process
                _log.exception("quota heartbeat failed")

    def _end(self, reservation: Reservation, usage: Usage, price: Price) -> Settle | None:
        """Forget a running call; returns what the store has to be told.

        The store decides whether it still was open, so it is told of a call of unknown history as well.
        """
        self._progress.pop(reservation.id, None)
        self._live.pop(reservation.id, None)
        return settlement_of(reservation, usage, price)

    def _in_store_terms(self, news: Mapping[str, Usage]) -> tuple[tuple[str, tuple[int, ...]], ...]:
        known: list[tuple[str, tuple[int, ...]]] = []
        for name, so_far in news.items():
            reservation = self._live.get(name)
            if reservation is not None and reservation.holds:
                usage = clamped(so_far)
                known.append(
                    (name, spent_on(reservation.holds, usage, self._prices.price(reservation.model)))
                )
        return tuple(known)

    def _check(self, max_output_tokens: int, choices: int) -> None:
        most = self._settings.max_output_tokens
        if not 0 <= max_output_tokens <= most:
            raise InvalidRequestError(f"max_tokens must be between 0 and {most}.", param="max_tokens")
        if not 1 <= choices <= _MOST_CHOICES:
            raise InvalidRequestError(f"n must be between 1 and {_MOST_CHOICES}.", param="n")

    def _now(self) -> float:
        return self._clock.now() + self._store.offset
