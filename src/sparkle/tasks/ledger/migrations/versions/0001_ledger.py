"""The ledger: tasks, the processes that run them, roles, paces.

Written out, not taken from ``schema.py``: a revision stays what it was when the tables go on changing.
"""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def _partial(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(
        name,
        "sparkle_task",
        columns,
        unique=unique,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "sparkle_task",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False, server_default=""),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("queue", sa.Text, nullable=False, server_default=""),
        sa.Column("priority", sa.Integer, nullable=False, server_default="5"),
        sa.Column("args", sa.Text, nullable=False),
        sa.Column("result", sa.Text),
        sa.Column("error_type", sa.Text),
        sa.Column("error_message", sa.Text),
        sa.Column("attempt", sa.Integer, nullable=False, server_default="0"),
        sa.Column("max_attempts", sa.Integer, nullable=False, server_default="1"),
        sa.Column("crashes", sa.Integer, nullable=False, server_default="0"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("due_at", sa.BigInteger, nullable=False),
        sa.Column("queued_at", sa.BigInteger),
        sa.Column("started_at", sa.BigInteger),
        sa.Column("finished_at", sa.BigInteger),
        sa.Column("lease_owner", sa.Text),
        sa.Column("lease_until", sa.BigInteger),
        sa.Column("fence", sa.Integer, nullable=False, server_default="0"),
        sa.Column("progress", sa.Double, nullable=False, server_default="0"),
        sa.Column("progress_note", sa.Text, nullable=False, server_default=""),
        sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("unique_key", sa.Text),
        sa.Column("trace", sa.Text),
        sa.Column("schedule", sa.Text),
        sa.PrimaryKeyConstraint("id", name="pk_sparkle_task"),
    )
    pending = "mode = 'long' AND state IN ('waiting', 'retrying')"
    unfinished = "state IN ('waiting', 'queued', 'running', 'retrying')"
    _partial("ix_sparkle_task_pending", ["queue", "priority", "due_at", "state", "name", "mode"], pending)
    _partial("ix_sparkle_task_queued", ["queue", "queued_at", "name", "state"], "state = 'queued'")
    _partial(
        "ix_sparkle_task_leased",
        ["lease_until", "queue", "name", "mode", "state"],
        "mode = 'long' AND state = 'running'",
    )
    _partial("ix_sparkle_task_short", ["lease_owner"], "mode = 'short' AND " + unfinished)
    _partial(
        "ix_sparkle_task_finished",
        ["state", "finished_at", "mode", "queue", "name"],
        "finished_at IS NOT NULL",
    )
    _partial("ix_sparkle_task_failed", ["id"], "state = 'failed'")
    op.create_index("ix_sparkle_task_user", "sparkle_task", ["user_id", "id"])
    op.create_index("ix_sparkle_task_name", "sparkle_task", ["name", "id"])
    _partial(
        "uq_sparkle_task_idempotency",
        ["user_id", "idempotency_key"],
        "idempotency_key IS NOT NULL",
        unique=True,
    )
    _partial(
        "uq_sparkle_task_unique", ["unique_key"], "unique_key IS NOT NULL AND " + unfinished, unique=True
    )
    _partial("uq_sparkle_task_schedule", ["schedule"], "schedule IS NOT NULL", unique=True)
    ledger = op.create_table(
        "sparkle_ledger",
        sa.Column("id", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sparkle_ledger"),
    )
    op.bulk_insert(ledger, [{"id": str(uuid.uuid4())}])
    op.create_table(
        "sparkle_owner",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("started_at", sa.BigInteger, nullable=False),
        sa.Column("seen_at", sa.BigInteger, nullable=False),
        sa.Column("alive_until", sa.BigInteger, nullable=False),
        sa.Column("info", sa.Text, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sparkle_owner"),
    )
    op.create_table(
        "sparkle_role",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("until", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sparkle_role"),
    )
    op.create_table(
        "sparkle_pace",
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("milliseconds", sa.Double, nullable=False),
        sa.Column("runs", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("name", name="pk_sparkle_pace"),
    )
