"""What every section of the settings is made of."""

from __future__ import annotations

from typing import Annotated, Any

from msgspec import Meta, Struct

from sparkle.masking import masked

Count = Annotated[int, Meta(ge=0)]
Seconds = Annotated[float, Meta(gt=0)]


def doc(text: str, **kwargs: Any) -> Any:
    """A field's meaning, as ``sparkle settings`` prints it; ``kwargs`` are msgspec's bounds."""
    return Meta(description=text, **kwargs)


class Section(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One section of the settings; its ``repr`` shows no secret."""

    def __repr__(self) -> str:
        # A settings object ends up in tracebacks and debug logs: no secret may stand in its repr.
        shown = (f"{name}={masked(name, getattr(self, name))!r}" for name in self.__struct_fields__)
        return f"{type(self).__name__}({', '.join(shown)})"
