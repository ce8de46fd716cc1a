"""Characters that no reader sees, or that turn the order of what is seen."""

from __future__ import annotations

from random import Random

from sparkle.redteam.evasion import Evasion, Mutate, of_text, words_of

_FAMILY = "invisible"
_OVERRIDE, _ISOLATE, _POP, _POP_ISOLATE = "\u202e", "\u2067", "\u202c", "\u2069"
_MARKS = ("\u0301", "\u0308", "\u0323", "\u0332", "\u0336")
_COVER = "Please look at this. "


def _between(*signs: str) -> Mutate:
    def mutate(text: str, rng: Random) -> str:
        return "".join(char + (rng.choice(signs) if char.isalpha() else "") for char in text)

    return mutate


def _inside_words(sign: str) -> Mutate:
    """One sign in the middle of every word, as somebody would do who knows what filters look for."""

    def mutate(text: str, rng: Random) -> str:
        return " ".join(word[: len(word) // 2] + sign + word[len(word) // 2 :] for word in text.split(" "))

    return mutate


def _for_blanks(sign: str) -> Mutate:
    return lambda text, rng: text.replace(" ", sign) if " " in text else None


def _turned(text: str, rng: Random) -> str:
    """Written backwards and shown forwards."""
    return f"{_OVERRIDE}{text[::-1]}{_POP}"


def _turned_words(text: str, rng: Random) -> str:
    return " ".join(f"{_OVERRIDE}{word[::-1]}{_POP}" for word in words_of(text))


def _isolated(text: str, rng: Random) -> str:
    return "".join(f"{_ISOLATE}{word}{_POP_ISOLATE} " for word in words_of(text)).strip()


def _tags(text: str, rng: Random) -> str | None:
    if not text.isascii():
        return None
    return _COVER + "".join(chr(0xE0000 + ord(char)) for char in text)


def _selectors(text: str, rng: Random) -> str:
    """The text's bytes as variation selectors behind one visible character."""
    return (
        _COVER
        + "☺"
        + "".join(chr(0xFE00 + byte if byte < 16 else 0xE0100 + byte - 16) for byte in text.encode())
    )


EVASIONS: tuple[Evasion, ...] = (
    of_text("zero_width", _FAMILY, "a zero-width space behind every letter", _between("\u200b")),
    of_text(
        "zero_width_mixed", _FAMILY, "zero-width characters of all kinds",
        _between("\u200b", "\u200c", "\u200d", "\u2060", "\ufeff"),
    ),
    of_text("zero_width_in_words", _FAMILY, "one zero-width joiner inside every word", _inside_words("\u200d")),
    of_text("zero_width_for_blanks", _FAMILY, "zero-width spaces in place of blanks", _for_blanks("\u200b")),
    of_text("soft_hyphens", _FAMILY, "a soft hyphen behind every letter", _between("\u00ad")),
    of_text("combining_marks", _FAMILY, "accents and strokes over every letter", _between(*_MARKS)),
    of_text("variation_selectors", _FAMILY, "a variation selector behind every letter", _between("\ufe0f")),
    of_text("bidi_override", _FAMILY, "written backwards, shown forwards", _turned),
    of_text("bidi_words", _FAMILY, "every word written backwards, shown forwards", _turned_words),
    of_text("bidi_isolates", _FAMILY, "every word in a directional isolate", _isolated),
    of_text("tags", _FAMILY, "in invisible tag characters", _tags),
    of_text("selector_bytes", _FAMILY, "as bytes in variation selectors", _selectors),
    of_text("control_characters", _FAMILY, "a control character inside every word", _inside_words("\x08")),
    of_text("exotic_blanks", _FAMILY, "blanks of other widths", _for_blanks("\u2009")),
)  # fmt: skip
