"""Arguments of long tasks as JSON: what they may hold, how large they may be, and that no secret lies in the ledger."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, cast

import msgspec

from sparkle.errors_tasks import TaskArgumentsError
from sparkle.masking_secrets import find_secret, is_secret_name, kind_of_secret

_MAX_DEPTH = 32
_PLAIN = (str, int)  # a boolean is an integer
_LISTS = (list, tuple)
_ADVICE = "the ledger is no place for secrets: pass a reference and look the secret up in the task"

_encode = msgspec.json.Encoder(order="deterministic").encode


def encode_arguments(args: Sequence[Any], kwargs: Mapping[str, Any], *, max_bytes: int) -> str:
    """Arguments as the ledger keeps them: ``{"args": [...], "kwargs": {...}}``, equal for equal arguments.

    Raises:
        TaskArgumentsError: Something in them is not JSON (only None, booleans, numbers, texts, lists, tuples and maps
            with text keys are), they are larger than ``max_bytes``, or hold a secret. The message names the place
            and never repeats the value.
    """
    if isinstance(args, str | bytes):
        # A sequence too, but nobody means its letters.
        raise TaskArgumentsError("args must be a list or tuple: args=[...]", param="args")
    _check(args, "args", _MAX_DEPTH)
    _check(kwargs, "kwargs", _MAX_DEPTH)
    content = {"args": list(args), "kwargs": dict(kwargs)}
    try:
        encoded = _encode(content)
    except (ValueError, msgspec.MsgspecError):
        raise TaskArgumentsError(
            "an argument cannot be written as JSON (a broken text, a number too long)"
        ) from None
    text = encoded.decode()
    if len(encoded) > max_bytes:
        raise TaskArgumentsError(
            f"the arguments take {len(encoded):,} bytes, {max_bytes:,} are allowed "
            "(SPARKLE_TASKS__MAX_ARGS_BYTES): store them and pass a reference"
        )
    # One look at the whole; only where it finds something each value is looked at alone.
    if kind_of_secret(text) is not None:
        for name, value in (("args", args), ("kwargs", kwargs)):
            if (found := find_secret(value, name)) is not None:
                raise TaskArgumentsError(f"{found[0]} {found[1]}; {_ADVICE}", param=found[0])
    return text


def unique_key(name: str, arguments: str, user_id: str | None) -> str:
    """The key under which a task is the same as another one: name, user and arguments."""
    digest = hashlib.blake2b(f"{user_id or ''}\x00{arguments}".encode(), digest_size=16).hexdigest()
    return f"{name}:{digest}"


def _check(value: object, where: str, depth: int) -> None:
    """Refuse what JSON does not know: msgspec would quietly turn a date into a text and NaN into null."""
    if value is None or isinstance(value, _PLAIN):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise TaskArgumentsError(f"{where} is {value}, which JSON does not know", param=where)
        return
    if not depth:
        raise TaskArgumentsError(f"{where} is nested too deeply", param=where)
    if isinstance(value, _LISTS):
        for index, item in enumerate(cast("Sequence[object]", value)):
            _check(item, f"{where}[{index}]", depth - 1)
        return
    if isinstance(value, Mapping):
        for key, item in cast("Mapping[object, object]", value).items():
            if not isinstance(key, str):
                raise TaskArgumentsError(
                    f"a key of {where} is of type {type(key).__name__}; keys must be texts", param=where
                )
            inner = f"{where}.{key}"
            if isinstance(item, str) and item and is_secret_name(key):
                raise TaskArgumentsError(f"{inner} has the name of a secret; {_ADVICE}", param=inner)
            _check(item, inner, depth - 1)
        return
    raise TaskArgumentsError(
        f"{where} is of type {type(value).__name__}, which JSON does not know; pass a text or a number instead",
        param=where,
    )
