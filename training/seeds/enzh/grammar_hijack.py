"""Tasks over a passage: passages that turn the task round, and passages or users that merely speak of change."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.seeds.enzh.expand import (
    DEFAULT_COUNT,
    Row,
    Side,
    load_bank,
    roughen,
    seeded,
    sentence_case,
    tidy,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SOURCE = "own_grammar_hijack"


def generate(rng: random.Random | int, count: int = DEFAULT_COUNT) -> Iterator[Row]:
    """Yield ``count`` rows, labels and languages in equal shares, no text twice.

    The rows depend on ``rng`` (a seed will do) and ``count`` alone.
    """
    rng = seeded(rng)
    seen: set[str] = set()
    while len(seen) < count:
        side: Side = "attack" if len(seen) % 2 == 0 else "benign"
        lang = "en" if len(seen) // 2 % 2 == 0 else "zh"
        bank = load_bank(f"hijack_{lang}")
        text = roughen(rng, sentence_case(tidy(bank.pick(rng, f"{side}.hijack"))))
        if text in seen:
            continue
        seen.add(text)
        yield Row(
            text=text,
            label=int(side == "attack"),
            lang=lang,
            family="hijack" if side == "attack" else "task",
            style="grammar_passage",
            source=SOURCE,
        )
