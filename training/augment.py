"""Further rows made of those that are there: payloads in the middle of documents, harmless sentences in the same
places, typing errors, other letter cases. Seeded; what is made of two families is left out with either.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

from training.rows import Row, written

SEED = 20261123
_CARRIERS = ("docs", "instructions", "bipia", "d2l", "react", "gaokao", "arena", "fabric", "pydoc", "belle")
_SHORT = 400
_NEIGHBOURS = "qwertyuiop asdfghjkl zxcvbnm"
_JOINTS = (
    "\n",
    "\n\n",
    " ",
    "\n\n---\n",
    "\n> ",
    "\nP.S. ",
    "\n* ",
    " (",
    "\n<!-- ",
    "\n# ",
    "\nNote: ",
    "\n备注：",
)


def augmented(rows: Sequence[Row], seed: int = SEED) -> list[tuple[Row, str]]:
    """(row, family of its carrier or "") for every row made; about as many attacks as harmless ones."""
    rng = random.Random(seed)
    carriers = [row for row in rows if row.label == 0 and row.family in _CARRIERS and len(row.text) > 150]
    # Of what generators compose a part is enough: it repeats itself anyway.
    own = [
        row
        for row in rows
        if row.author != "public" and len(row.text) < _SHORT and (written(row) or rng.random() < 0.2)
    ]
    made: list[tuple[Row, str]] = []
    for row in own:
        if rng.random() < (0.5 if row.label else 0.6):
            carrier = rng.choice(carriers)
            made.append((replace(row, text=_inside(row.text, carrier.text, rng), weight=0.5), carrier.family))
        if rng.random() < 0.15 and row.text.isascii():
            made.append((replace(row, text=rng.choice(_CHANGES)(row.text, rng), weight=0.5), ""))
    made += [(row, other) for row, other in _pairs(own, rng)]
    return made


def _pairs(own: Sequence[Row], rng: random.Random) -> Iterator[tuple[Row, str]]:
    """Two texts of one language in a row: an attack beside anything is one, two harmless texts are none."""
    by_lang: dict[str, list[Row]] = {}
    for row in own:
        by_lang.setdefault(row.lang, []).append(row)
    for row in own:
        if rng.random() >= 0.25:
            continue
        other = rng.choice([r for r in by_lang[row.lang] if r.label == 0] or [row])
        both = [row.text, other.text] if rng.random() < 0.5 else [other.text, row.text]
        yield replace(row, text=rng.choice((" ", "\n", "\n\n")).join(both), weight=0.5), other.family


def _inside(payload: str, carrier: str, rng: random.Random) -> str:
    """The payload at a line or sentence end of the carrier, which is shortened."""
    carrier = carrier[: rng.randrange(200, 1_500)]
    stops = [at + 1 for at, char in enumerate(carrier) if char in "\n.。!！?？"] or [len(carrier)]
    at = rng.choice([0, *stops, len(carrier)])
    joint = rng.choice(_JOINTS)
    close = ")" if joint.endswith("(") else " -->" if "<!--" in joint else ""
    return carrier[:at] + (joint if at else "") + payload + close + "\n" + carrier[at:].lstrip()


def _typos(text: str, rng: random.Random) -> str:
    letters = list(text)
    for _ in range(max(1, len(letters) // 40)):
        at = rng.randrange(len(letters))
        if letters[at].isalpha():
            letters[at] = rng.choice(("", letters[at] * 2, rng.choice(_NEIGHBOURS)))
    return "".join(letters)


def _upper(text: str, rng: random.Random) -> str:
    del rng
    return text.upper()


def _bare(text: str, rng: random.Random) -> str:
    del rng
    return "".join(char for char in text.lower() if char.isalnum() or char.isspace())


_CHANGES: tuple[Callable[[str, random.Random], str], ...] = (_typos, _typos, _upper, _bare)
