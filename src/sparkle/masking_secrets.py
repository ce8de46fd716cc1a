"""Finds secrets in what tasks are given and in what their errors say. The patterns stand in ``data/secrets.yaml``."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, cast

import msgspec

from sparkle.masking import MASK, mask_urls

_SECRET_URL = re.compile(r"\w+://[^/?#@\s:]*:[^/?#@\s]+@")
"""An address with a password in it."""
_MAX_DEPTH = 64


class SecretValue(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One kind of value that is a secret."""

    name: str
    hint: str
    pattern: str
    matches: list[str]
    spares: list[str]


class SecretTable(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The whole file."""

    names: list[str]
    endings: list[str]
    values: list[SecretValue]


@dataclass(frozen=True, slots=True)
class _Compiled:
    names: frozenset[str]
    endings: tuple[str, ...]
    values: tuple[tuple[str, str, re.Pattern[str]], ...]


def secret_table() -> SecretTable:
    """The shipped table, checked."""
    return msgspec.yaml.decode(
        files("sparkle").joinpath("data", "secrets.yaml").read_bytes(), type=SecretTable
    )


@cache
def _compiled() -> _Compiled:
    table = secret_table()
    return _Compiled(
        frozenset(table.names),
        tuple(table.endings),
        tuple((value.name, value.hint, re.compile(value.pattern)) for value in table.values),
    )


def is_secret_name(name: str) -> bool:
    """Whether a field of this name usually holds a secret: ``password``, ``github_api_key``; not ``max_tokens``."""
    plain = name.lower().replace("-", "_")
    known = _compiled()
    return plain in known.names or plain.endswith(known.endings)


def kind_of_secret(text: str) -> str | None:
    """What kind of secret stands in ``text`` (``"GitHub token"``), or ``None``. Linear in the length."""
    if "://" in text and _SECRET_URL.search(text):
        return "address with a password"
    for name, hint, pattern in _compiled().values:
        if hint in text and pattern.search(text):
            return name
    return None


def mask_secrets(text: str) -> str:
    """``text`` with every secret in it replaced by ``***``."""
    for _, hint, pattern in _compiled().values:
        if hint in text:
            text = pattern.sub(MASK, text)
    return mask_urls(text)


def find_secret(value: object, where: str = "") -> tuple[str, str] | None:
    """The first secret in JSON-able data.

    Args:
        value: Maps, lists, texts, nested at most 64 deep; deeper is not looked at.
        where: Name of ``value`` itself.

    Returns:
        Its place (``kwargs.headers.Authorization``) and why it counts as one; never the secret. ``None`` where
        there is none.
    """
    return next(_secrets(value, where, _MAX_DEPTH), None)


def _secrets(value: object, where: str, depth: int) -> Iterator[tuple[str, str]]:
    if isinstance(value, str):
        if len(value) >= 8 and (kind := kind_of_secret(value)) is not None:
            yield where, f"looks like a secret ({kind})"
    elif depth and isinstance(value, Mapping):
        for key, item in cast("Mapping[Any, Any]", value).items():
            inner = f"{where}.{key}"
            # A number or an empty text under such a name is no secret: {"token": 17}.
            if isinstance(item, str) and item and is_secret_name(str(key)):
                yield inner, "has the name of a secret"
            yield from _secrets(item, inner, depth - 1)
    elif depth and isinstance(value, list | tuple):
        for index, item in enumerate(cast("list[Any]", value)):
            yield from _secrets(item, f"{where}[{index}]", depth - 1)
