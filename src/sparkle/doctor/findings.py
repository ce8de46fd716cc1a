"""What a check found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum

from sparkle.errors import ConfigurationError, SparkleError
from sparkle.settings import Settings


class Status(StrEnum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"
    """Nothing is wrong; worth knowing."""
    WARNING = "warning"
    """It works, with less than it promises."""
    FAILED = "failed"
    """Something does not work."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One sentence about one thing. Holds no secrets: addresses are shown without their passwords."""

    check: str
    """What was looked at, in a word or two."""
    status: Status
    message: str
    mend: str | None = None
    """What to do about it: a command where there is one."""

    def as_json(self) -> dict[str, str | None]:
        """For machines."""
        return {
            "check": self.check,
            "status": self.status.value,
            "message": self.message,
            "mend": self.mend,
        }


def ok(check: str, message: str) -> Finding:
    """All is well."""
    return Finding(check, Status.OK, message)


def note(check: str, message: str, mend: str | None = None) -> Finding:
    """Worth knowing."""
    return Finding(check, Status.NOTE, message, mend)


def warning(check: str, message: str, mend: str) -> Finding:
    """Works, with less than it promises."""
    return Finding(check, Status.WARNING, message, mend)


def failed(check: str, message: str, mend: str) -> Finding:
    """Does not work."""
    return Finding(check, Status.FAILED, message, mend)


Check = Callable[[Settings], Iterable[Finding]]


def examine(name: str, check: Check, settings: Settings) -> Iterator[Finding]:
    """Run one check; whatever it raises becomes its finding."""
    try:
        yield from check(settings)
    except ConfigurationError as exc:
        yield failed(name, exc.message, "change the setting; `sparkle settings` lists them all")
    except SparkleError as exc:
        yield failed(name, exc.message, "see the message")
    except Exception as exc:  # noqa: BLE001  a check that crashes must not hide what the others find
        yield failed(
            name, f"could not be checked: {type(exc).__name__}", "report this with the version of Sparkle"
        )


def megabytes(count: float) -> str:
    """A size for people."""
    return f"{count / 1e9:.1f} GB" if count >= 1e9 else f"{count / 1e6:.0f} MB"
