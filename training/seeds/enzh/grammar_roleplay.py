"""Role plays of 30 to about 220 words: personas that shed their rules, and personas that merely play."""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.seeds.enzh.expand import DEFAULT_COUNT, Bank, Row, Side, load_bank, seeded, tidy

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SOURCE = "own_grammar_roleplay"
MORE = (0, 0, 2, 4, 7, 11, 15)  # further sentences of a scene
PLAYFUL_SHARE = (
    0.3  # of an attack's further sentences, taken from harmless scenes: a jailbreak is mostly decoration
)


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
        text = tidy(_scene(rng, bank, side, " " if lang == "en" else ""))
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


def _scene(rng: random.Random, bank: Bank, side: Side, space: str) -> str:
    """One scene with a single name throughout: the set-up, further sentences as prose or list, the opening line."""
    hero = {"name": bank.pick(rng, "name")}
    own = "a" if side == "attack" else "b"
    parts = [bank.pick(rng, rng.choice(bank.roots(side)), hero)]
    more: dict[str, None] = {}
    for _ in range(rng.choice(MORE)):
        kind = "b" if rng.random() < PLAYFUL_SHARE else own
        slot = rng.choice(("trait_{}", "trait_{}2", "cond_{}", "stay_{}", "format_{}"))
        more[bank.pick(rng, slot.format(kind), hero)] = None
    if more:
        marks = rng.choice(("", "", "- ", "* ", "#"))
        lines = [f"{i}. {line}" if marks == "#" else f"{marks}{line}" for i, line in enumerate(more, 1)]
        parts.append(("\n" if marks else space).join(lines))
        parts.append(bank.pick(rng, f"first_{own}", hero))
    return rng.choice(("\n\n", "\n")).join(parts)
