"""``record_token_usage``: what each call used, and the sums of each day."""

from __future__ import annotations

from datetime import UTC, datetime

from sqlalchemy import Connection
from sqlalchemy.dialects import postgresql, sqlite

from sparkle.tasks.own.schema import usage, usage_day


def record(
    connection: Connection,
    *,
    call_id: str,
    user_id: str,
    model: str,
    prompt_tokens: int,
    completion_tokens: int,
    cost_nano_usd: int,
    at: int,
) -> bool:
    """Count one call; ``at`` in microseconds since the epoch. False: it was counted before."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    counted = {
        "user_id": user_id,
        "model": model,
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "cost_nano_usd": cost_nano_usd,
    }
    row = {**counted, "call_id": call_id, "at": at}
    once = dialect.insert(usage).values(row).on_conflict_do_nothing().returning(usage.c.call_id)
    if connection.execute(once).first() is None:
        return False
    day = datetime.fromtimestamp(at / 1_000_000, UTC).date().isoformat()
    insert = dialect.insert(usage_day).values({**counted, "day": day, "calls": 1})
    summed = ("calls", "prompt_tokens", "completion_tokens", "cost_nano_usd")
    connection.execute(
        insert.on_conflict_do_update(
            index_elements=["user_id", "day", "model"],
            set_={name: usage_day.c[name] + insert.excluded[name] for name in summed},
        )
    )
    return True
