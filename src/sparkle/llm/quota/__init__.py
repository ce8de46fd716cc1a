"""Layer 2, quota and cost: what a call may use is reserved before it, and settled after it."""

from __future__ import annotations

from sparkle.llm.quota.guard import LLMCostGuard
from sparkle.llm.quota.ops import QuotaStore
from sparkle.llm.quota.prices import Price, PriceTable
from sparkle.llm.quota.store import open_store
from sparkle.llm.quota.tokens import TokenCounter
from sparkle.llm.quota.types import LimitState, Reservation, Settlement

__all__ = [
    "LLMCostGuard",
    "LimitState",
    "Price",
    "PriceTable",
    "QuotaStore",
    "Reservation",
    "Settlement",
    "TokenCounter",
    "open_store",
]
