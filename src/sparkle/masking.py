"""What a person may see of a value that can hold a secret."""

from __future__ import annotations

import re
from typing import Any, cast

MASK = "***"

#: Fields whose value is a secret: never shown by ``repr``, ``sparkle settings`` or an error.
_SECRET_FIELDS = frozenset({"api_key"})
_URL_USERINFO = re.compile(r"(\w+://)[^/?#@\s]*@")


def mask_urls(text: str) -> str:
    """``text`` with the user and password of every URL in it replaced by ``***``."""
    return _URL_USERINFO.sub(rf"\1{MASK}@", text)


def masked(name: str, value: Any) -> Any:
    """``value`` of the field ``name`` without its secrets; what can hold none comes back as it is."""
    if isinstance(value, str):
        return (MASK if value else "") if name in _SECRET_FIELDS else mask_urls(value)
    if isinstance(value, tuple):
        return tuple(masked(name, item) for item in cast("tuple[Any, ...]", value))
    return value
