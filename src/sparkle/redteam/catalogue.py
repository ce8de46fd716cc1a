"""All evasions, in the order of the report, and choosing some of them."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from functools import lru_cache
from typing import Protocol, TypeVar

from sparkle.errors import ConfigurationError
from sparkle.redteam.evasion import Evasion
from sparkle.redteam.evasions import (
    encodings,
    frames,
    invisible,
    languages,
    lookalikes,
    notations,
    ordering,
    spacing,
    splits,
)
from sparkle.validation import did_you_mean


@lru_cache(maxsize=1)
def catalogue() -> tuple[Evasion, ...]:
    """Every evasion of the input side."""
    return (
        *invisible.EVASIONS,
        *lookalikes.evasions(),
        *spacing.EVASIONS,
        *ordering.EVASIONS,
        *encodings.EVASIONS,
        *notations.EVASIONS,
        *frames.evasions(),
        *languages.evasions(),
        *splits.EVASIONS,
    )


class Named(Protocol):
    """What can be chosen by name."""

    @property
    def name(self) -> str:
        """Its own name."""
        ...

    @property
    def family(self) -> str:
        """What it belongs to."""
        ...

    @property
    def about(self) -> str:
        """What it does."""
        ...


N = TypeVar("N", bound=Named)


def choose(names: Sequence[str], available: Sequence[N]) -> tuple[N, ...]:
    """The evasions whose name or family fits one of ``names`` (globs allowed); all of them where none is given.

    Raises:
        ConfigurationError: a name fits none; the message suggests one.
    """
    if not names:
        return tuple(available)
    for name in names:
        if not any(fnmatchcase(e.name, name) or e.family == name for e in available):
            known = [*(e.name for e in available), *{e.family for e in available}]
            hint = did_you_mean(name, known) or "; see `sparkle redteam --list`"
            raise ConfigurationError(f"there is no evasion or family named {name!r}{hint}")
    return tuple(e for e in available if any(fnmatchcase(e.name, n) or e.family == n for n in names))
