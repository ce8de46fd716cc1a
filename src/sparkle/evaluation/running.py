"""Judging all rows, one after another, with somebody watching."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import BinaryIO

import msgspec

from sparkle.errors import InvalidRequestError
from sparkle.evaluation.detector import Detector, Judged
from sparkle.evaluation.figures import Scored
from sparkle.evaluation.rows import Row

Progress = Callable[[int, int], None]
"""Told (rows judged, all rows) after each row."""


def judge_rows(
    rows: Sequence[Row],
    detector: Detector,
    *,
    role: str | None = None,
    progress: Progress | None = None,
    writer: BinaryIO | None = None,
) -> list[Scored]:
    """Judge every row in order.

    Args:
        rows: what to judge.
        detector: who judges.
        role: judges all rows as this role's, whatever they say.
        progress: told after each row.
        writer: takes ``{"score", "flagged", "rules", "ms"}`` a line, which ``--compare`` reads. Never holds a text.
    """
    found: list[Scored] = []
    for number, row in enumerate(rows, 1):
        try:
            judged = detector.judge(row.text, role or row.role)
        except InvalidRequestError:
            judged = Judged(1.0, True, ("request.refused",))  # refused before any rule: it does not pass
        found.append(Scored(row, judged))
        if writer is not None:
            writer.write(msgspec.json.encode(_line(judged)) + b"\n")
        if progress is not None:
            progress(number, len(rows))
    return found


def _line(judged: Judged) -> dict[str, object]:
    return {
        "score": judged.score,
        "flagged": judged.flagged,
        "rules": judged.rules,
        "ms": round(judged.milliseconds, 3),
    }
