"""Counts what happened without asking the code under test: files the tasks wrote, and a trigger in the database."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Connection, Engine, text

from sparkle.tasks.ledger import Ledger
from sparkle.tasks.states import FINISHED, TaskState

_TABLES = (
    "CREATE TABLE IF NOT EXISTS chaos_effect (task_id VARCHAR(36) NOT NULL, attempt INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS chaos_completion (task_id VARCHAR(36) NOT NULL, attempt INTEGER NOT NULL)",
)
_SQLITE_TRIGGER = (
    "CREATE TRIGGER IF NOT EXISTS chaos_observer AFTER UPDATE OF state ON sparkle_task "
    "WHEN NEW.state = 'succeeded' "
    "BEGIN INSERT INTO chaos_completion VALUES (NEW.id, NEW.attempt); END",
)
_POSTGRES_TRIGGER = (
    "CREATE OR REPLACE FUNCTION chaos_observe() RETURNS trigger LANGUAGE plpgsql AS "
    "'BEGIN INSERT INTO chaos_completion VALUES (NEW.id, NEW.attempt); RETURN NULL; END'",
    "CREATE OR REPLACE TRIGGER chaos_observer AFTER UPDATE OF state ON sparkle_task FOR EACH ROW "
    "WHEN (NEW.state = 'succeeded') EXECUTE FUNCTION chaos_observe()",
)


@dataclass(frozen=True, slots=True)
class Count:
    """What an observer found about one round's tasks."""

    tasks: int
    """Accepted: the call that scheduled them returned."""
    succeeded: int
    lost: int
    """Accepted, but neither finished nor on the way, or finished without having run to its end."""
    stuck: int
    """Not finished when the round was given up."""
    failed: int
    """In the dead letter."""
    twice: int
    """Attempts that completed more than once in the ledger."""
    doubled: int
    """Tasks whose transactional effect is there more than once, or there without a completion."""
    repeated: int
    """Tasks whose effects outside happened more than once."""


def prepare(engine: Engine) -> None:
    """Make the tables and the trigger that the observer reads."""
    trigger = _SQLITE_TRIGGER if engine.dialect.name == "sqlite" else _POSTGRES_TRIGGER
    with engine.begin() as connection:
        for statement in (*_TABLES, *trigger):
            connection.execute(text(statement))


def reading(engine: Engine) -> Connection:
    """A connection that looks without taking SQLite's write lock: who is observed must not wait for the observer."""
    return engine.execution_options(sparkle_read=True).connect()


def completions(engine: Engine) -> int:
    """Completions so far."""
    with reading(engine) as connection:
        return int(connection.execute(text("SELECT count(*) FROM chaos_completion")).scalar_one())


def unfinished(engine: Engine, ids: frozenset[str] | None = None) -> int:
    """How many tasks (of ``ids``) are not finished."""
    over = ", ".join(f"'{state.value}'" for state in FINISHED)
    with reading(engine) as connection:
        rows = connection.execute(text(f"SELECT id FROM sparkle_task WHERE state NOT IN ({over})"))
        return sum(ids is None or row[0] in ids for row in rows)


def repeated(folder: Path, ids: Sequence[str]) -> frozenset[str]:
    """Tasks whose effects outside happened more than once."""
    return frozenset(id for id in ids if any(number > 1 for number in _words(folder / id).values()))


def count(ledger: Ledger, folder: Path, ids: Sequence[str]) -> Count:
    """Look at files, effects and completions of the tasks ``ids``."""
    with reading(ledger.engine) as connection:
        effects = Counter(row[0] for row in connection.execute(text("SELECT task_id FROM chaos_effect")))
        attempts = Counter(
            (row[0], row[1])
            for row in connection.execute(text("SELECT task_id, attempt FROM chaos_completion"))
        )
        states = {
            row[0]: TaskState(row[1])
            for row in connection.execute(text("SELECT id, state FROM sparkle_task"))
        }
    completed = Counter(task for task, _ in attempts)
    traces = {id: _words(folder / id) for id in ids}
    succeeded = [id for id in ids if states.get(id) is TaskState.SUCCEEDED]
    return Count(
        tasks=len(ids),
        succeeded=len(succeeded),
        lost=sum(id not in states for id in ids)
        + sum("end" not in traces[id] or effects[id] == 0 for id in succeeded),
        stuck=sum(states[id] not in FINISHED for id in ids if id in states),
        failed=sum(states.get(id) is TaskState.FAILED for id in ids),
        twice=sum(attempts[id, number] > 1 for id, number in attempts if id in traces)
        + sum(completed[id] > 1 for id in ids),
        doubled=sum(effects[id] > 1 or (effects[id] == 1) != (completed[id] == 1) for id in ids),
        repeated=len(repeated(folder, ids)),
    )


def _words(path: Path) -> Counter[str]:
    return (
        Counter(line.split()[0] for line in path.read_text().splitlines() if line)
        if path.exists()
        else Counter()
    )
