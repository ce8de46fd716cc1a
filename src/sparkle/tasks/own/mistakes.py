"""``analyze_error_batch``: what kind of mistake each wrong answer is, and which kinds a student keeps making."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import cache
from importlib.resources import files
from typing import Any

import msgspec
from sqlalchemy import Connection, select, update
from sqlalchemy.dialects import postgresql, sqlite

from sparkle.tasks.own.schema import error_pattern, wrong_answer
from sparkle.tasks.own.words import words

_NUMBER = re.compile(r"[-+−]?\d{1,30}(?:[.,]\d{1,30})?(?:[eE][-+]?\d{1,3})?")
_ROUNDING = 0.01
"""Relative difference up to which a number is a rounding."""
_ARITHMETIC = 0.25
"""Relative difference up to which a number is taken for the right way with a slip in it."""
_INCOMPLETE = 0.4
"""Share of the expected answer's words that a part of it must hold."""


class Mistake(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of wrong answer."""

    kind: str
    advice: str
    advice_zh: str


@cache
def mistakes() -> dict[str, Mistake]:
    """The shipped kinds by name, the most particular first."""
    raw = files("sparkle").joinpath("tasks", "own", "data", "errors.yaml").read_bytes()
    return {entry.kind: entry for entry in msgspec.yaml.decode(raw, type=list[Mistake])}


class WrongAnswer(msgspec.Struct, frozen=True):
    """One wrong answer."""

    id: str
    subject: str
    question: str
    given: str
    expected: str


def kind_of(given: str, expected: str, others: Iterable[str] = ()) -> str:
    """The kind of mistake.

    Args:
        given: The student's answer.
        expected: The right one.
        others: Right answers of the student's other questions: giving one of those is a confusion.
    """
    if not given.strip():
        return "blank"
    numeric = _numeric_kind(given, expected)
    if numeric is not None:
        return numeric
    wanted, said = Counter(words(expected)), Counter(words(given))
    part = said and said != wanted and not said - wanted
    if part and said.total() / wanted.total() >= _INCOMPLETE:
        return "incomplete"
    plain = " ".join(words(given))
    if plain and any(plain == " ".join(words(other)) for other in others):
        return "confusion"
    return "concept"


def _numeric_kind(given: str, expected: str) -> str | None:
    """What is wrong with a number; ``None`` where one of the two is none, or the number is right."""
    said, wanted = _number(given), _number(expected)
    if said is None or wanted is None or said == wanted:
        return None
    if said == -wanted:
        return "sign"
    if not wanted or not said:
        return "arithmetic"
    ratio = said / wanted
    if ratio > 0:
        exponent = math.log10(ratio)
        if abs(exponent) >= 0.99 and abs(exponent - round(exponent)) < 1e-6:
            return "magnitude"
    off = abs(ratio - 1)
    if off <= _ROUNDING:
        return "rounding"
    return "arithmetic" if off <= _ARITHMETIC else "concept"


def _number(text: str) -> float | None:
    """The only number of a short answer (``x = 3.5 m``)."""
    found = _NUMBER.findall(text)
    if len(found) != 1:
        return None
    value = float(found[0].replace("−", "-").replace(",", "."))
    return value if math.isfinite(value) else None


def open_answers(connection: Connection, user_id: str, most: int) -> list[WrongAnswer]:
    """The oldest wrong answers of a user that were not analysed yet."""
    columns = [wrong_answer.c[name] for name in WrongAnswer.__struct_fields__]
    rows = connection.execute(
        select(*columns)
        .where(wrong_answer.c.user_id == user_id, wrong_answer.c.analysed_at.is_(None))
        .order_by(wrong_answer.c.id)
        .limit(most)
    )
    return [WrongAnswer(*row) for row in rows]


def store(
    connection: Connection,
    user_id: str,
    analysed: Sequence[tuple[WrongAnswer, str, str]],
    now: int,
) -> int:
    """Keep answer, kind and analysis of each, and count the patterns; one that was analysed meanwhile is left alone.

    Returns:
        How many were kept.
    """
    counted: Counter[tuple[str, str]] = Counter()
    for answer, kind, analysis in analysed:
        done = connection.execute(
            update(wrong_answer)
            .where(wrong_answer.c.id == answer.id, wrong_answer.c.analysed_at.is_(None))
            .values(kind=kind, analysis=analysis, analysed_at=now)
        )
        counted[answer.subject, kind] += done.rowcount
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    for (subject, kind), answers in sorted(counted.items()):
        if answers:
            insert = dialect.insert(error_pattern).values(
                user_id=user_id, subject=subject, kind=kind, answers=answers, last_seen=now
            )
            connection.execute(
                insert.on_conflict_do_update(
                    index_elements=["user_id", "subject", "kind"],
                    set_={
                        "answers": error_pattern.c.answers + insert.excluded.answers,
                        "last_seen": insert.excluded.last_seen,
                    },
                )
            )
    return counted.total()


def patterns(connection: Connection, user_id: str) -> list[dict[str, Any]]:
    """What a user gets wrong, the most frequent first: subject, kind, number, share in the subject, advice."""
    rows = connection.execute(
        select(error_pattern)
        .where(error_pattern.c.user_id == user_id)
        .order_by(error_pattern.c.answers.desc(), error_pattern.c.subject, error_pattern.c.kind)
    ).all()
    totals: Counter[str] = Counter()
    for row in rows:
        totals[row.subject] += row.answers
    return [
        {
            "subject": row.subject,
            "kind": row.kind,
            "answers": row.answers,
            "share": round(row.answers / totals[row.subject], 3),
            "advice": mistakes()[row.kind].advice,
            "advice_zh": mistakes()[row.kind].advice_zh,
        }
        for row in rows
    ]
