"""Encoded and disguised sentences: orders to decode and obey, and harmless messages in the same codes."""

from __future__ import annotations

import base64
import codecs
from typing import TYPE_CHECKING, Final
from urllib.parse import quote

from training.seeds.enzh.expand import DEFAULT_COUNT, Row, Side, load_bank, seeded, tidy

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterator

SOURCE = "own_grammar_encoded"
LEET: Final = str.maketrans("aeiost", "431057")
LOOK_ALIKE: Final = str.maketrans("aeopcxyi", "аеорсхуі")  # Cyrillic letters that look like these
WIDE: Final = {code: code + 0xFEE0 for code in range(0x21, 0x7F)}
MORSE: Final = dict(
    zip(
        "abcdefghijklmnopqrstuvwxyz",
        [
            ".-",
            "-...",
            "-.-.",
            "-..",
            ".",
            "..-.",
            "--.",
            "....",
            "..",
            ".---",
            "-.-",
            ".-..",
            "--",
            "-.",
            "---",
            ".--.",
            "--.-",
            ".-.",
            "...",
            "-",
            "..-",
            "...-",
            ".--",
            "-..-",
            "-.--",
            "--..",
        ],
        strict=True,
    )
)


def _morse(text: str) -> str:
    return " / ".join(" ".join(MORSE[c] for c in word if c in MORSE) for word in text.lower().split())


def _spaced(mark: str) -> Callable[[str], str]:
    return lambda text: mark.join(text)


def _entities(text: str) -> str:
    return "".join(f"&#{ord(c)};" for c in text)


def _escapes(text: str) -> str:
    return "".join(f"\\u{ord(c):04x}" for c in text)


COMMON: Final[dict[str, Callable[[str], str]]] = {
    "base64": lambda t: base64.b64encode(t.encode()).decode(),
    "base32": lambda t: base64.b32encode(t.encode()).decode(),
    "base85": lambda t: base64.b85encode(t.encode()).decode(),
    "hex": lambda t: t.encode().hex(),
    "hex bytes": lambda t: t.encode().hex(" "),
    "URL encoding": lambda t: quote(t, safe=""),
    "HTML entities": _entities,
    "Unicode escapes": _escapes,
    "reversed": lambda t: t[::-1],
    "dotted": _spaced("."),
    "spaced": _spaced(" "),
    "zero-width": _spaced("\u200b"),
    "starred": _spaced("*"),
}
LATIN: Final[dict[str, Callable[[str], str]]] = {
    "rot13": lambda t: codecs.encode(t, "rot13"),
    "leetspeak": lambda t: t.lower().translate(LEET),
    "Morse": _morse,
    "look-alike letters": lambda t: t.translate(LOOK_ALIKE),
    "full-width": lambda t: t.translate(WIDE),
    "reversed words": lambda t: " ".join(reversed(t.split())),
    "hyphens": _spaced("-"),
    "no vowels": lambda t: "".join(c for c in t if c not in "aeiou"),
    "binary": lambda t: " ".join(f"{byte:08b}" for byte in t.encode()),
}


def generate(rng: random.Random | int, count: int = DEFAULT_COUNT) -> Iterator[Row]:
    """Yield ``count`` encoded texts, labels and languages in equal shares, no text twice.

    The rows depend on ``rng`` (a seed will do) and ``count`` alone.
    """
    rng = seeded(rng)
    seen: set[str] = set()
    while len(seen) < count:
        side: Side = "attack" if len(seen) % 2 == 0 else "benign"
        lang = "en" if len(seen) // 2 % 2 == 0 else "zh"
        bank = load_bank(f"encoded_{lang}")
        known = COMMON | LATIN if lang == "en" else COMMON
        codec = rng.choice(sorted(known))
        payload = known[codec](bank.pick(rng, f"{side}.order"))
        called = bank.slots.get(f"codec.{codec}", [codec])[0]
        text = tidy(bank.fill(rng, rng.choice(bank.slots[f"{side}.wrap"]), {"codec": called}))
        text = text.replace("PAYLOAD", payload)
        if text in seen:
            continue
        seen.add(text)
        yield Row(
            text=text,
            label=int(side == "attack"),
            lang=lang,
            family="encoded",
            style=f"grammar_{codec.replace(' ', '_')}",
            source=SOURCE,
        )
