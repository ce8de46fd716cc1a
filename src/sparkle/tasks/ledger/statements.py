"""The ledger's statements for one kind of database, read from ``ledger.sql``."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.resources import files

from sqlalchemy import TextClause, text

from sparkle.tasks.record import TaskRecord

COLUMNS = tuple(field.name for field in fields(TaskRecord))
"""The columns of ``sparkle_task`` in the order of :class:`TaskRecord`."""

_NAMED = re.compile(r"^-- name: (\w+)$", re.MULTILINE)
_COMMENT = re.compile(r"^\s*--.*$", re.MULTILINE)
_MACRO = re.compile(r"\{\{([^{}]+)\}\}")
_ROWS_OF = "rows_of_"


@cache
def statements(dialect: str) -> Mapping[str, TextClause]:
    """Statements by name for ``"sqlite"`` or ``"postgresql"``."""
    source = files("sparkle").joinpath("tasks", "ledger", "ledger.sql").read_text("utf-8")
    _, *parts = _NAMED.split(source)
    found: dict[str, TextClause] = {}
    for name, body in zip(parts[::2], parts[1::2], strict=True):
        plain = _COMMENT.sub("", body).strip()
        found[name] = text(_MACRO.sub(lambda match: _expand(match[1], dialect), plain))
    return found


def _expand(macro: str, dialect: str) -> str:
    postgres = dialect == "postgresql"
    if macro.startswith(_ROWS_OF):
        return _rows(int(macro.removeprefix(_ROWS_OF)), postgres=postgres)
    kind, colon, value = macro.partition(":")
    if colon:
        # PostgreSQL reads numbers out of JSON as text, and takes a bare parameter in a CASE for one.
        wanted = {"int": "integer", "bigint": "bigint", "double": "double precision"}[kind]
        return f"CAST({value} AS {wanted})" if postgres else value
    match macro:
        case "columns":
            return ", ".join(COLUMNS)
        case "ids" | "names":
            # One parameter whatever the number of ids, so that there is one statement to prepare.
            if postgres:
                return f"(SELECT value FROM json_array_elements_text(CAST(:{macro} AS json)))"  # noqa: S608  a word of ours
            return f"(SELECT value FROM json_each(:{macro}))"  # noqa: S608  a word of ours
        case "skip":
            # SQLite has one writer at a time: there is nothing to skip.
            return "FOR UPDATE SKIP LOCKED" if postgres else ""
        case "lock":
            return "FOR UPDATE" if postgres else ""
        case "by_id":
            # Locks are taken in one order; SQLite has none, and would walk the whole table for the sake of it.
            return "ORDER BY id" if postgres else ""
        case "no_index":
            # A unary plus keeps SQLite from walking a whole partial index where it has ids to look up.
            return "" if postgres else "+"
        case "among_rows":
            # PostgreSQL takes a JSON list for a hundred rows and would rather read a whole table of thousands; an array
            # it takes for few, and looks each up.
            if postgres:
                ids = "SELECT value->>0 FROM json_array_elements(CAST(:rows AS json))"
                return f"AND sparkle_task.id = ANY (ARRAY({ids}))"
            return ""
        case "true" | "false":
            return macro
        case _:
            raise KeyError(macro)


def _rows(width: int, *, postgres: bool) -> str:
    """A table with columns c0, c1, ... out of the JSON rows in the parameter ``rows``."""
    if postgres:
        columns = ", ".join(f"value->>{at} AS c{at}" for at in range(width))
        return f"(SELECT {columns} FROM json_array_elements(CAST(:rows AS json)))"  # noqa: S608  numbers only
    columns = ", ".join(f"json_extract(value, '$[{at}]') AS c{at}" for at in range(width))
    return f"(SELECT {columns} FROM json_each(:rows))"  # noqa: S608  numbers only
