"""``update_mastery``: how probably a student knows a skill, by Bayesian knowledge tracing."""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache
from importlib.resources import files

import msgspec
from sqlalchemy import Connection, select
from sqlalchemy.dialects import postgresql, sqlite

from sparkle.errors import ConfigurationError
from sparkle.tasks.own.schema import mastery


class Tracing(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The model's probabilities; each strictly between 0 and 1, guess + slip below 1."""

    prior: float
    learn: float
    slip: float
    guess: float
    mastered: float

    def __post_init__(self) -> None:
        if not all(0 < value < 1 for value in msgspec.structs.astuple(self)) or self.slip + self.guess >= 1:
            # With more, a right answer would speak against knowing.
            raise ConfigurationError(
                "knowledge tracing: probabilities must lie in (0, 1), slip + guess below 1"
            )


@cache
def shipped_tracing() -> Tracing:
    """The shipped probabilities."""
    raw = files("sparkle").joinpath("tasks", "own", "data", "mastery.yaml").read_bytes()
    return msgspec.yaml.decode(raw, type=Tracing)


def traced(known: float, correct: bool, model: Tracing) -> float:
    """The probability that the skill is known after one more answer.

    Bayes' rule for the evidence, then the chance to have learnt from the exercise (Corbett and Anderson 1995).
    """
    if correct:
        right = known * (1 - model.slip)
        evidence = right / (right + (1 - known) * model.guess)
    else:
        wrong = known * model.slip
        evidence = wrong / (wrong + (1 - known) * (1 - model.guess))
    return evidence + (1 - evidence) * model.learn


class Mastery(msgspec.Struct, frozen=True):
    """What is known of one skill of one student."""

    known: float
    answers: int
    correct: int


def update(
    connection: Connection, user_id: str, skill: str, answers: Iterable[bool], now: int, model: Tracing
) -> Mastery:
    """Take answers in, in their order, and store what follows. Concurrent updates of one skill follow one another."""
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    fresh = {
        "user_id": user_id,
        "skill": skill,
        "known": model.prior,
        "answers": 0,
        "correct": 0,
        "updated_at": now,
    }
    connection.execute(dialect.insert(mastery).values(fresh).on_conflict_do_nothing())
    mine = (mastery.c.user_id == user_id) & (mastery.c.skill == skill)
    row = connection.execute(select(mastery).where(mine).with_for_update()).one()
    known, count, right = float(row.known), int(row.answers), int(row.correct)
    for correct in answers:
        known = traced(known, correct, model)
        count += 1
        right += correct
    connection.execute(
        mastery.update().where(mine).values(known=known, answers=count, correct=right, updated_at=now)
    )
    return Mastery(known, count, right)
