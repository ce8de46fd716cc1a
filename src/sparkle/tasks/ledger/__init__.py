"""The ledger: what tasks there are and who may run them. Needs the extra ``tasks``."""

from __future__ import annotations

from sparkle.tasks.ledger.store import Ledger

__all__ = ["Ledger"]
