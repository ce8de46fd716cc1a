"""``cleanup_pending_actions``: what a user began and never confirmed expires, and is forgotten later."""

from __future__ import annotations

from sqlalchemy import Connection, delete, select, update

from sparkle.tasks.own.schema import pending_action


def expire(connection: Connection, now: int, most: int) -> int:
    """Mark at most ``most`` pending actions whose time is over at ``now`` (microseconds). Returns how many."""
    over = (
        select(pending_action.c.id)
        .where(pending_action.c.state == "pending", pending_action.c.expires_at <= now)
        .order_by(pending_action.c.expires_at, pending_action.c.id)
        .limit(most)
    )
    # Asked again of the row itself: one that its user confirms at this moment stays confirmed.
    still = pending_action.c.state == "pending"
    return connection.execute(
        update(pending_action).where(pending_action.c.id.in_(over), still).values(state="expired")
    ).rowcount


def forget(connection: Connection, before: int, most: int) -> int:
    """Delete at most ``most`` actions that are done or expired and whose time was over before. Returns how many."""
    old = (
        select(pending_action.c.id)
        .where(pending_action.c.state.in_(("done", "expired")), pending_action.c.expires_at < before)
        .order_by(pending_action.c.state, pending_action.c.expires_at)
        .limit(most)
    )
    return connection.execute(delete(pending_action).where(pending_action.c.id.in_(old))).rowcount
