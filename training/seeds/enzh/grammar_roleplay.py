"""Role plays of 50 to 250 words: personas that shed their rules, and personas that merely play."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.seeds.enzh.expand import DEFAULT_COUNT, Row, Side, load_bank, seeded, tidy

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SOURCE = "own_grammar_roleplay"


def generate(rng: random.Random | int, count: int = DEFAULT_COUNT) -> Iterator[Row]:
    """Yield ``count`` role plays, labels and languages in equal shares, no text twice.

    The rows depend on ``rng`` (a seed will do) and ``count`` alone.
    """
    rng = seeded(rng)
    seen: set[str] = set()
    while len(seen) < count:
        side: Side = "attack" if len(seen) % 2 == 0 else "benign"
        lang = "en" if len(seen) // 2 % 2 == 0 else "zh"
        bank = load_bank(f"roleplay_{lang}")
        hero = {"name": bank.pick(rng, "name")}  # one name throughout a text
        text = tidy(bank.pick(rng, rng.choice(bank.roots(side)), hero))
        if text in seen:
            continue
        seen.add(text)
        yield Row(
            text=text,
            label=int(side == "attack"),
            lang=lang,
            family="roleplay",
            style="grammar_persona",
            source=SOURCE,
        )
