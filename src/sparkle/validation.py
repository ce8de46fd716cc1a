"""Find every problem of a configuration tree, with the place of each, before it is converted.

msgspec stops at the first error and calls an entry of a map ``[...]``. Whoever edits a policy wants all
problems at once, each with its field's full name, what is allowed there and, for a misspelt name, what was
probably meant.
"""

from __future__ import annotations

import difflib
import enum
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal, Union, cast, get_args, get_origin, get_type_hints

import msgspec


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong in a configuration tree. Holds no values except misspelt choices."""

    path: tuple[str | int, ...]
    """Keys and list positions from the root, e.g. ``("input", "rules", "xss.script")``."""
    message: str
    """What is wrong and what is allowed, in a sentence."""

    @property
    def where(self) -> str:
        """The path as a person writes it: ``input.rules["xss.script"]``, ``output.allow[2].pattern``."""
        return join_path(self.path)

    def __str__(self) -> str:
        return f"{self.where}: {self.message}" if self.path else self.message


def join_path(path: Sequence[str | int]) -> str:
    """Dotted name of a path; keys that are not plain names stand in brackets and quotes."""
    parts: list[str] = []
    for key in path:
        if isinstance(key, int):
            parts.append(f"[{key}]")
        elif key.isidentifier():
            parts.append(f".{key}" if parts else key)
        else:
            parts.append(f'["{key}"]')
    return "".join(parts)


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """``' (did you mean "x"?)'`` for the nearest known name, or an empty string where none is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f' (did you mean "{near[0]}"?)' if near else ""


def find_problems(
    tree: object,
    kind: Any,
    *,
    strict: bool = True,
    dec_hook: Callable[[type, Any], Any] | None = None,
    path: tuple[str | int, ...] = (),
) -> Iterator[Problem]:
    """Every problem of ``tree`` as a value of ``kind``.

    Args:
        tree: What a YAML or JSON reader returned.
        kind: A msgspec ``Struct`` class, ``dict[str, X]``, ``tuple[X, ...]`` or any type msgspec converts.
        strict: False accepts strings for numbers and booleans, as environment variables need.
        dec_hook: Passed on to :func:`msgspec.convert` for types of our own.
        path: Where ``tree`` stands; prefix of every reported path.
    """
    bare = _strip(kind)
    if isinstance(bare, type) and issubclass(bare, msgspec.Struct):
        yield from _struct_problems(tree, bare, strict, dec_hook, path)
        return
    origin, args = get_origin(bare), get_args(bare)
    if origin is dict and isinstance(tree, Mapping):
        for key, value in cast("Mapping[object, object]", tree).items():
            if not isinstance(key, str):
                yield Problem(path, f"names must be text, {key!r} is not; put it in quotes")
                continue
            yield from find_problems(value, args[1], strict=strict, dec_hook=dec_hook, path=(*path, key))
        return
    if origin is tuple and len(args) == 2 and args[1] is Ellipsis and isinstance(tree, list | tuple):
        for index, value in enumerate(cast("Sequence[object]", tree)):
            yield from find_problems(value, args[0], strict=strict, dec_hook=dec_hook, path=(*path, index))
        return
    try:
        msgspec.convert(tree, kind, strict=strict, dec_hook=dec_hook)
    except msgspec.ValidationError as exc:
        yield Problem(path, _explain(tree, bare, str(exc)))


def _struct_problems(
    tree: object,
    kind: type[msgspec.Struct],
    strict: bool,
    dec_hook: Callable[[type, Any], Any] | None,
    path: tuple[str | int, ...],
) -> Iterator[Problem]:
    if not isinstance(tree, Mapping):
        yield Problem(path, f"must be a mapping, is {_type_name(tree)}")
        return
    fields = _fields(kind)
    given = cast("Mapping[object, object]", tree)
    for key, value in given.items():
        if not isinstance(key, str) or key not in fields:
            hint = did_you_mean(str(key), fields)
            yield Problem((*path, str(key)), f"unknown name{hint}; allowed here: {', '.join(fields)}")
            continue
        yield from find_problems(value, fields[key], strict=strict, dec_hook=dec_hook, path=(*path, key))
    for field in msgspec.structs.fields(kind):
        if field.required and field.name not in given:
            yield Problem((*path, field.name), "is required")


@cache
def _fields(kind: type[msgspec.Struct]) -> dict[str, Any]:
    hints = get_type_hints(kind, include_extras=True)
    return {field.name: hints[field.name] for field in msgspec.structs.fields(kind)}


def _strip(kind: Any) -> Any:
    while get_origin(kind) is Annotated:
        kind = get_args(kind)[0]
    return kind


def _choices(kind: Any) -> list[str] | None:
    if isinstance(kind, type) and issubclass(kind, enum.Enum):
        return [str(member.value) for member in kind]
    if get_origin(kind) is Literal:
        return [str(choice) for choice in get_args(kind)]
    if get_origin(kind) in (Union, types.UnionType):
        found = [_choices(_strip(arg)) for arg in get_args(kind) if arg is not type(None)]
        return found[0] if len(found) == 1 else None
    return None


def _explain(value: object, kind: Any, message: str) -> str:
    choices = _choices(kind)
    if choices is not None:
        shown = f'"{value}"' if isinstance(value, str) and len(value) <= 40 else _type_name(value)
        hint = did_you_mean(value, choices) if isinstance(value, str) else ""
        return f"must be one of {', '.join(choices)}; is {shown}{hint}"
    text = message.partition(" - at `")[0].replace("`", "")
    return text[:1].lower() + text[1:]


def _type_name(value: object) -> str:
    match value:
        case None:
            return "empty"
        case bool():
            return "true or false"
        case str():
            return "a text"
        case int() | float():
            return "a number"
        case Mapping():
            return "a mapping"
        case list() | tuple():
            return "a list"
        case _:
            return type(value).__name__  # e.g. a date, which YAML makes of 2026-01-01
