"""How long an upstream asks us to wait."""

from __future__ import annotations

import re
from collections.abc import Iterable

_LONGEST = 7 * 86_400.0
_NUMBER = re.compile(r"\d{1,12}(?:\.\d{1,9})?")
_DURATION = re.compile(
    r"(?:(\d{1,5})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,9}(?:\.\d{1,9})?)s)?(?:(\d{1,9})ms)?"
)
_EPOCH = 1_000_000_000.0  # a number above this is a point in time, not a duration


def retry_after(headers: Iterable[tuple[bytes, bytes]], now: float) -> float | None:
    """Seconds to wait, between 0 and a week; ``None`` when no header says.

    Understands ``retry-after-ms``, ``retry-after`` (seconds or an HTTP date) and, where both are missing,
    ``x-ratelimit-reset*`` (seconds, a duration like ``6m0s`` or ``20ms``, or a Unix time) of those limits of which
    nothing remains.

    Args:
        headers: Raw header fields.
        now: Seconds since the epoch.
    """
    fields = {name.decode("latin-1").lower(): value.decode("latin-1").strip() for name, value in headers}
    milliseconds = fields.get("retry-after-ms", "")
    if _NUMBER.fullmatch(milliseconds):
        return _bounded(float(milliseconds) / 1000)
    value = fields.get("retry-after")
    if value:
        return _seconds(value, now)
    waits: list[float] = []
    for suffix in ("", "-requests", "-tokens"):
        reset = fields.get(f"x-ratelimit-reset{suffix}")
        used_up = fields.get(f"x-ratelimit-remaining{suffix}", "0") in ("0", "")
        wait = _seconds(reset, now) if reset and used_up else None
        if wait is not None:
            waits.append(wait)
    return max(waits, default=None)


def _seconds(value: str, now: float) -> float | None:
    if _NUMBER.fullmatch(value):
        number = float(value)
        return _bounded(number - now if number > _EPOCH else number)
    parts = _DURATION.fullmatch(value)
    if parts:
        days, hours, minutes, seconds, milliseconds = (float(part or 0) for part in parts.groups())
        return _bounded(((days * 24 + hours) * 60 + minutes) * 60 + seconds + milliseconds / 1000)
    from email.utils import parsedate_to_datetime  # rarely needed, slow to import

    try:
        return _bounded(parsedate_to_datetime(value).timestamp() - now)
    except (ValueError, OverflowError):
        return None


def _bounded(seconds: float) -> float:
    return min(max(seconds, 0.0), _LONGEST)
