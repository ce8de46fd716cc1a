"""Letters written with other characters that are read the same."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random

from sparkle.redteam.evasion import Evasion, Mutate, latin_only, of_text
from sparkle.redteam.tables import letters

_FAMILY = "lookalike"
_CAPITAL, _SMALL = ord("A"), ord("a")


def _mapped(table: Mapping[str, str], share: float = 1.0) -> Mutate:
    """Letters replaced by ``table`` (small letters for both cases where it has no capital), a ``share`` of them."""

    def one(char: str, rng: Random) -> str:
        found = table.get(char, table.get(char.lower()))
        return found if found is not None and (share >= 1 or rng.random() < share) else char

    return latin_only(lambda text, rng: "".join(one(char, rng) for char in text))


def _row(capital: int, small: int | None = None) -> Mutate:
    """Letters moved to a block of styled letters that begins at ``capital`` (and ``small``)."""

    def one(char: str) -> str:
        if "a" <= char <= "z":
            return chr((capital if small is None else small) + ord(char) - _SMALL)
        if "A" <= char <= "Z":
            return chr(capital + ord(char) - _CAPITAL)
        return char

    return latin_only(lambda text, rng: "".join(map(one, text)))


def _full_width(text: str, rng: Random) -> str | None:
    wide = {code: code + 0xFEE0 for code in range(0x21, 0x7F)} | {0x20: 0x3000}
    return text.translate(wide)


def _upside_down(text: str, rng: Random) -> str:
    table = letters().upside_down
    return "".join(table.get(char, char) for char in reversed(text.lower()))


def _alternating(text: str, rng: Random) -> str:
    return "".join(char.upper() if index % 2 else char.lower() for index, char in enumerate(text))


def evasions() -> tuple[Evasion, ...]:
    """The family; a function, because it reads its tables."""
    tables = letters()
    return (
        of_text("homoglyphs", _FAMILY, "Cyrillic and Greek look-alikes", _mapped(tables.homoglyphs)),
        of_text("homoglyphs_some", _FAMILY, "a third of the letters as look-alikes", _mapped(tables.homoglyphs, 0.33)),
        of_text("full_width", _FAMILY, "full-width forms", latin_only(_full_width)),
        of_text("mathematical_bold", _FAMILY, "mathematical bold letters", _row(0x1D400, 0x1D41A)),
        of_text("mathematical_fraktur", _FAMILY, "mathematical bold Fraktur", _row(0x1D56C, 0x1D586)),
        of_text("mathematical_mono", _FAMILY, "mathematical typewriter letters", _row(0x1D670, 0x1D68A)),
        of_text("circled", _FAMILY, "letters in circles", _row(0x24B6, 0x24D0)),
        of_text("squared", _FAMILY, "letters in squares", _row(0x1F130)),
        of_text("regional_indicators", _FAMILY, "the letters of flags", _row(0x1F1E6)),
        of_text("small_capitals", _FAMILY, "small capitals", _mapped(tables.small_capitals)),
        of_text("accents", _FAMILY, "accented letters", _mapped(tables.accents)),
        of_text("leetspeak", _FAMILY, "digits for letters", _mapped(tables.leet)),
        of_text("leetspeak_signs", _FAMILY, "digits and signs for letters", _mapped(tables.leet_signs)),
        of_text("leetspeak_some", _FAMILY, "digits for half of the letters", _mapped(tables.leet, 0.5)),
        of_text("upside_down", _FAMILY, "upside-down letters from right to left", latin_only(_upside_down)),
        of_text("upper_case", _FAMILY, "capitals only", latin_only(lambda text, rng: text.upper())),
        of_text("alternating_case", _FAMILY, "aLtErNaTiNg capitals", latin_only(_alternating)),
    )  # fmt: skip
