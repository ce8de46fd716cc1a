"""The ledger's tables. ``migrations/`` brings a database to this state; a test compares the two.

Every index is there for one question, and most are partial, so that a finished task stands in few of them. The
last columns of some are there so that counting reads the index alone.
"""

from __future__ import annotations

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Double,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    text,
)

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
    }
)

task = Table(
    "sparkle_task",
    metadata,
    Column("id", Text, primary_key=True),
    Column("mode", Text, nullable=False),
    Column("name", Text, nullable=False),
    # Nobody is the empty text, not NULL: a unique index must take two tasks of nobody with one key for equal.
    Column("user_id", Text, nullable=False, server_default=""),
    Column("state", Text, nullable=False),
    Column("queue", Text, nullable=False, server_default=""),
    Column("priority", Integer, nullable=False, server_default="5"),
    Column("args", Text, nullable=False),
    Column("result", Text),
    Column("error_type", Text),
    Column("error_message", Text),
    Column("attempt", Integer, nullable=False, server_default="0"),
    Column("max_attempts", Integer, nullable=False, server_default="1"),
    Column("crashes", Integer, nullable=False, server_default="0"),
    Column("created_at", BigInteger, nullable=False),
    Column("due_at", BigInteger, nullable=False),
    Column("queued_at", BigInteger),
    Column("started_at", BigInteger),
    Column("finished_at", BigInteger),
    Column("lease_owner", Text),
    Column("lease_until", BigInteger),
    Column("fence", Integer, nullable=False, server_default="0"),
    Column("progress", Double, nullable=False, server_default="0"),
    Column("progress_note", Text, nullable=False, server_default=""),
    Column("cancel_requested", Boolean, nullable=False, server_default=text("false")),
    Column("idempotency_key", Text),
    Column("unique_key", Text),
    Column("trace", Text),
    Column("schedule", Text),
)

# The conditions of the partial indexes. Statements repeat them word for word: SQLite uses such an index only where it
# reads the same condition, not where it is hidden behind a parameter.
PENDING = "mode = 'long' AND state IN ('waiting', 'retrying')"
UNFINISHED = "state IN ('waiting', 'queued', 'running', 'retrying')"
QUEUED = "state = 'queued'"
LEASED = "mode = 'long' AND state = 'running'"
UNFINISHED_SHORT = "mode = 'short' AND " + UNFINISHED


def _partial(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(
        name,
        *(task.c[column] for column in columns),
        unique=unique,
        sqlite_where=condition,
        postgresql_where=condition,
    )


# What is due, by queue and priority: the relay's question.
_partial("ix_sparkle_task_pending", "queue", "priority", "due_at", "state", "name", "mode", where=PENDING)
# How much lies in the broker, and how long: the relay's window.
_partial("ix_sparkle_task_queued", "queue", "queued_at", "name", "state", where=QUEUED)
# Whose lease ended.
_partial("ix_sparkle_task_leased", "lease_until", "queue", "name", "mode", "state", where=LEASED)
# What the in-process tasks of a process were doing when it died.
_partial("ix_sparkle_task_short", "lease_owner", where=UNFINISHED_SHORT)
# Counts, retention, dead letters.
_partial(
    "ix_sparkle_task_finished",
    "state",
    "finished_at",
    "mode",
    "queue",
    "name",
    where="finished_at IS NOT NULL",
)
# Dead letters, newest first.
_partial("ix_sparkle_task_failed", "id", where="state = 'failed'")
# One user's tasks, one name's tasks, newest first (an id sorts by creation).
Index("ix_sparkle_task_user", task.c.user_id, task.c.id)
Index("ix_sparkle_task_name", task.c.name, task.c.id)
# Once is once.
_partial(
    "uq_sparkle_task_idempotency",
    "user_id",
    "idempotency_key",
    where="idempotency_key IS NOT NULL",
    unique=True,
)
_partial(
    "uq_sparkle_task_unique", "unique_key", where="unique_key IS NOT NULL AND " + UNFINISHED, unique=True
)
_partial("uq_sparkle_task_schedule", "schedule", where="schedule IS NOT NULL", unique=True)

ledger = Table(
    "sparkle_ledger",
    metadata,
    # One row. Tells this ledger from another one, whose tables look the same.
    Column("id", Text, primary_key=True),
)

owner = Table(
    "sparkle_owner",
    metadata,
    Column("id", Text, primary_key=True),
    Column("kind", Text, nullable=False),
    Column("started_at", BigInteger, nullable=False),
    Column("seen_at", BigInteger, nullable=False),
    Column("alive_until", BigInteger, nullable=False),
    Column("info", Text, nullable=False),
)

role = Table(
    "sparkle_role",
    metadata,
    Column("name", Text, primary_key=True),
    Column("owner", Text, nullable=False),
    Column("until", BigInteger, nullable=False),
)

pace = Table(
    "sparkle_pace",
    metadata,
    # How long tasks of a name take: a moving average.
    Column("name", Text, primary_key=True),
    Column("milliseconds", Double, nullable=False),
    Column("runs", BigInteger, nullable=False),
)
