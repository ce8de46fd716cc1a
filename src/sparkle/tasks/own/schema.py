"""Tables of Sparkle's own tasks, in the ledger's database; revision 0002 makes them."""

from __future__ import annotations

from sqlalchemy import BigInteger, Column, Double, ForeignKey, Index, Integer, LargeBinary, Table, Text

from sparkle.tasks.ledger.schema import metadata

__all__ = ["metadata"]

node = Table(
    "sparkle_node",
    metadata,
    # A piece of knowledge of one user.
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("title", Text, nullable=False),
    Column("body", Text, nullable=False, server_default=""),
    # 'active' or 'suggested' (made by expand_knowledge_node, not yet accepted).
    Column("status", Text, nullable=False, server_default="active"),
    Column("created_at", BigInteger, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
    Column("expanded_at", BigInteger),
)
Index("ix_sparkle_node_user", node.c.user_id, node.c.title)

embedding = Table(
    "sparkle_node_embedding",
    metadata,
    Column("node_id", Text, ForeignKey("sparkle_node.id", ondelete="CASCADE"), primary_key=True),
    Column("model", Text, nullable=False),
    Column("dimensions", Integer, nullable=False),
    # float32, little-endian, of length 1.
    Column("vector", LargeBinary, nullable=False),
    # Of what was embedded: the same text is not embedded twice.
    Column("digest", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

edge = Table(
    "sparkle_edge",
    metadata,
    Column("source", Text, ForeignKey("sparkle_node.id", ondelete="CASCADE"), primary_key=True),
    Column("target", Text, ForeignKey("sparkle_node.id", ondelete="CASCADE"), primary_key=True),
    # 'part_of' or 'related'.
    Column("kind", Text, primary_key=True),
    Column("weight", Double, nullable=False, server_default="1"),
)
Index("ix_sparkle_edge_target", edge.c.target)

picture = Table(
    "sparkle_graph_picture",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("svg", Text, nullable=False),
    Column("nodes", Integer, nullable=False),
    Column("edges", Integer, nullable=False),
    Column("digest", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)

wrong_answer = Table(
    "sparkle_wrong_answer",
    metadata,
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("subject", Text, nullable=False),
    Column("question", Text, nullable=False),
    Column("given", Text, nullable=False),
    Column("expected", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("kind", Text),
    Column("analysis", Text),
    Column("analysed_at", BigInteger),
)
Index("ix_sparkle_wrong_answer_user", wrong_answer.c.user_id, wrong_answer.c.analysed_at, wrong_answer.c.id)

error_pattern = Table(
    "sparkle_error_pattern",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("subject", Text, primary_key=True),
    Column("kind", Text, primary_key=True),
    Column("answers", Integer, nullable=False),
    Column("last_seen", BigInteger, nullable=False),
)

usage = Table(
    "sparkle_token_usage",
    metadata,
    # The call's own id: a call that is reported twice counts once.
    Column("call_id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("model", Text, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    # Billionths of a US dollar.
    Column("cost_nano_usd", BigInteger, nullable=False),
    Column("at", BigInteger, nullable=False),
)
Index("ix_sparkle_token_usage_user", usage.c.user_id, usage.c.at)

usage_day = Table(
    "sparkle_token_usage_day",
    metadata,
    Column("user_id", Text, primary_key=True),
    # YYYY-MM-DD, UTC.
    Column("day", Text, primary_key=True),
    Column("model", Text, primary_key=True),
    Column("calls", BigInteger, nullable=False),
    Column("prompt_tokens", BigInteger, nullable=False),
    Column("completion_tokens", BigInteger, nullable=False),
    Column("cost_nano_usd", BigInteger, nullable=False),
)

learning_state = Table(
    "sparkle_learning_state",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("scope", Text, primary_key=True),
    # Counted by the client: an older state that arrives late does not overwrite a newer one.
    Column("version", BigInteger, nullable=False),
    Column("state", Text, nullable=False),
    Column("saved_at", BigInteger, nullable=False),
)

mastery = Table(
    "sparkle_mastery",
    metadata,
    Column("user_id", Text, primary_key=True),
    Column("skill", Text, primary_key=True),
    # Probability that the skill is known.
    Column("known", Double, nullable=False),
    Column("answers", Integer, nullable=False),
    Column("correct", Integer, nullable=False),
    Column("updated_at", BigInteger, nullable=False),
)

cache_entry = Table(
    "sparkle_cache_entry",
    metadata,
    Column("key", Text, primary_key=True),
    Column("value", Text, nullable=False),
    Column("expires_at", BigInteger),
)
Index("ix_sparkle_cache_entry_expires", cache_entry.c.expires_at)

cache_tag = Table(
    "sparkle_cache_tag",
    metadata,
    Column("tag", Text, primary_key=True),
    Column("key", Text, ForeignKey("sparkle_cache_entry.key", ondelete="CASCADE"), primary_key=True),
)
Index("ix_sparkle_cache_tag_key", cache_tag.c.key)

pending_action = Table(
    "sparkle_pending_action",
    metadata,
    # Something a user has begun and must confirm: an import, a deletion, a suggestion.
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("kind", Text, nullable=False),
    Column("payload", Text, nullable=False),
    # 'pending', 'done' or 'expired'.
    Column("state", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
    Column("expires_at", BigInteger, nullable=False),
)
Index("ix_sparkle_pending_action_expires", pending_action.c.state, pending_action.c.expires_at)

ranking = Table(
    "sparkle_ranking",
    metadata,
    # The task that made it.
    Column("id", Text, primary_key=True),
    Column("user_id", Text, nullable=False),
    Column("query", Text, nullable=False),
    # JSON [[document id, score], ...], best first.
    Column("documents", Text, nullable=False),
    Column("created_at", BigInteger, nullable=False),
)
