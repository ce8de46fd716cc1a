"""Tables of Sparkle's own tasks.

Written out, not taken from ``own/schema.py``: a revision stays what it was when the tables go on changing.
"""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Create everything."""
    op.create_table(
        "sparkle_cache_entry",
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("key", name="pk_sparkle_cache_entry"),
    )
    op.create_index("ix_sparkle_cache_entry_expires", "sparkle_cache_entry", ["expires_at"])
    op.create_table(
        "sparkle_error_pattern",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("answers", sa.Integer, nullable=False),
        sa.Column("last_seen", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "subject", "kind", name="pk_sparkle_error_pattern"),
    )
    op.create_table(
        "sparkle_graph_picture",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("svg", sa.Text, nullable=False),
        sa.Column("nodes", sa.Integer, nullable=False),
        sa.Column("edges", sa.Integer, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", name="pk_sparkle_graph_picture"),
    )
    op.create_table(
        "sparkle_learning_state",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("version", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("saved_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "scope", name="pk_sparkle_learning_state"),
    )
    op.create_table(
        "sparkle_mastery",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("skill", sa.Text, nullable=False),
        sa.Column("known", sa.Double, nullable=False),
        sa.Column("answers", sa.Integer, nullable=False),
        sa.Column("correct", sa.Integer, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "skill", name="pk_sparkle_mastery"),
    )
    op.create_table(
        "sparkle_node",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("title", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False, server_default=""),
        sa.Column("status", sa.Text, nullable=False, server_default="active"),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("updated_at", sa.BigInteger, nullable=False),
        sa.Column("expanded_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_sparkle_node"),
    )
    op.create_index("ix_sparkle_node_user", "sparkle_node", ["user_id", "title"])
    op.create_table(
        "sparkle_pending_action",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("payload", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("expires_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sparkle_pending_action"),
    )
    op.create_index("ix_sparkle_pending_action_expires", "sparkle_pending_action", ["state", "expires_at"])
    op.create_table(
        "sparkle_ranking",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("query", sa.Text, nullable=False),
        sa.Column("documents", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("id", name="pk_sparkle_ranking"),
    )
    op.create_table(
        "sparkle_token_usage",
        sa.Column("call_id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("call_id", name="pk_sparkle_token_usage"),
    )
    op.create_index("ix_sparkle_token_usage_user", "sparkle_token_usage", ["user_id", "at"])
    op.create_table(
        "sparkle_token_usage_day",
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("day", sa.Text, nullable=False),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("calls", sa.BigInteger, nullable=False),
        sa.Column("prompt_tokens", sa.BigInteger, nullable=False),
        sa.Column("completion_tokens", sa.BigInteger, nullable=False),
        sa.Column("cost_nano_usd", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("user_id", "day", "model", name="pk_sparkle_token_usage_day"),
    )
    op.create_table(
        "sparkle_wrong_answer",
        sa.Column("id", sa.Text, nullable=False),
        sa.Column("user_id", sa.Text, nullable=False),
        sa.Column("subject", sa.Text, nullable=False),
        sa.Column("question", sa.Text, nullable=False),
        sa.Column("given", sa.Text, nullable=False),
        sa.Column("expected", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("kind", sa.Text),
        sa.Column("analysis", sa.Text),
        sa.Column("analysed_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_sparkle_wrong_answer"),
    )
    op.create_index("ix_sparkle_wrong_answer_user", "sparkle_wrong_answer", ["user_id", "analysed_at", "id"])
    op.create_table(
        "sparkle_cache_tag",
        sa.Column("tag", sa.Text, nullable=False),
        sa.Column(
            "key",
            sa.Text,
            sa.ForeignKey("sparkle_cache_entry.key", ondelete="CASCADE", name="fk_sparkle_cache_tag_key"),
            nullable=False,
        ),
        sa.PrimaryKeyConstraint("tag", "key", name="pk_sparkle_cache_tag"),
    )
    op.create_index("ix_sparkle_cache_tag_key", "sparkle_cache_tag", ["key"])
    op.create_table(
        "sparkle_edge",
        sa.Column(
            "source",
            sa.Text,
            sa.ForeignKey("sparkle_node.id", ondelete="CASCADE", name="fk_sparkle_edge_source"),
            nullable=False,
        ),
        sa.Column(
            "target",
            sa.Text,
            sa.ForeignKey("sparkle_node.id", ondelete="CASCADE", name="fk_sparkle_edge_target"),
            nullable=False,
        ),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("weight", sa.Double, nullable=False, server_default="1"),
        sa.PrimaryKeyConstraint("source", "target", "kind", name="pk_sparkle_edge"),
    )
    op.create_index("ix_sparkle_edge_target", "sparkle_edge", ["target"])
    op.create_table(
        "sparkle_node_embedding",
        sa.Column(
            "node_id",
            sa.Text,
            sa.ForeignKey("sparkle_node.id", ondelete="CASCADE", name="fk_sparkle_node_embedding_node_id"),
            nullable=False,
        ),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("dimensions", sa.Integer, nullable=False),
        sa.Column("vector", sa.LargeBinary, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.PrimaryKeyConstraint("node_id", name="pk_sparkle_node_embedding"),
    )
