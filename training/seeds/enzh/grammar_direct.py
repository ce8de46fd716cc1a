"""Short direct texts: requests for a secret or the rules, overrides, and harmless requests of the same build."""

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

SOURCE = "own_grammar_direct"
FAMILY = {"secret": "secret", "rules": "prompt_leak", "override": "override"}


def generate(rng: random.Random | int, count: int = DEFAULT_COUNT) -> Iterator[Row]:
    """Yield ``count`` rows, labels and languages in equal shares, no text twice.

    The rows depend on ``rng`` (a seed will do) and ``count`` alone.
    """
    rng = seeded(rng)
    seen: set[str] = set()
    made = 0
    while made < count:
        side: Side = "attack" if made % 2 == 0 else "benign"
        lang = "en" if made // 2 % 2 == 0 else "zh"
        bank = load_bank(f"direct_{lang}")
        root = rng.choice(bank.roots(side))
        text = roughen(rng, sentence_case(tidy(bank.pick(rng, root))))
        if text in seen:
            continue
        seen.add(text)
        made += 1
        style = root.partition(".")[2]
        yield Row(
            text=text,
            label=int(side == "attack"),
            lang=lang,
            family=FAMILY[style] if side == "attack" else "trigger",
            style=f"grammar_{style}",
            source=SOURCE,
        )
