"""What may be shown of an API key, and how its end is written."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime

from sparkle.errors import InvalidRequestError

_DURATION = re.compile(r"([0-9]{1,6})\s*([smhdw])")
_SECONDS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


@dataclass(frozen=True, slots=True)
class KeyInfo:
    """What may be shown of a key. Times are Unix seconds."""

    id: str
    user: str
    team: str | None
    name: str | None
    models: tuple[str, ...]
    """Models it may use (glob patterns); empty: all."""
    created: float
    expires: float | None
    revoked: float | None

    def state(self, now: float) -> str:
        """``active``, ``expired`` or ``revoked``."""
        if self.revoked is not None:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


def parse_expiry(text: str, now: float) -> float:
    """Unix seconds of ``30d``, ``12h``, ``45m``, ``2w`` from ``now``, or of a date ``2027-01-31`` (its end,
    UTC).

    Raises:
        InvalidRequestError: It is neither.
    """
    if matched := _DURATION.fullmatch(text.strip().lower()):
        return now + int(matched.group(1)) * _SECONDS[matched.group(2)]
    try:
        return datetime.strptime(text.strip(), "%Y-%m-%d").replace(tzinfo=UTC).timestamp() + 86_400
    except ValueError:
        raise InvalidRequestError(
            "expires must be a duration such as 30d or 12h, or a date such as 2027-01-31", param="expires"
        ) from None


def key_row(info: KeyInfo, now: float) -> dict[str, object]:
    """A key as the command line shows it; times are RFC 3339 in UTC."""
    return {
        "id": info.id,
        "user": info.user,
        "team": info.team,
        "name": info.name,
        "models": list(info.models),
        "state": info.state(now),
        "created": _moment(info.created),
        "expires": _moment(info.expires),
        "revoked": _moment(info.revoked),
    }


def _moment(seconds: float | None) -> str | None:
    return (
        None
        if seconds is None
        else datetime.fromtimestamp(int(seconds), UTC).isoformat().replace("+00:00", "Z")
    )
