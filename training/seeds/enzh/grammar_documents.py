"""Documents with a sentence put into them: an order to the model that reads it, or a note among people.

Both labels use the same carriers (mail, page, paper, chat, table, JSON, log, code, subtitles, reviews), the same
places and the same ways of hiding, so that only what the sentence says can tell them apart.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from training.seeds.enzh.expand import DEFAULT_COUNT, Bank, Row, Side, load_bank, seeded, sentence_case, tidy

if TYPE_CHECKING:
    import random
    from collections.abc import Iterator

SOURCE = "own_grammar_documents"
ROWS_SHARE = 0.3
LONGEST = 60  # sentences of the longest document, about 3,000 characters
MIXED = frozenset({"code", "log", "reviews"})
BARE_SHARE = 0.2  # harmless documents without any inserted note


def generate(rng: random.Random | int, count: int = DEFAULT_COUNT) -> Iterator[Row]:
    """Yield ``count`` documents of 60 to about 3,000 characters, labels and languages in equal shares.

    The rows depend on ``rng`` (a seed will do) and ``count`` alone.
    """
    rng = seeded(rng)
    for made in range(count):
        side: Side = "attack" if made % 2 == 0 else "benign"
        lang = "en" if made // 2 % 2 == 0 else "zh"
        bank = load_bank(f"documents_{lang}")
        insert = tidy(bank.pick(rng, f"{side}.insert"))
        if rng.random() < ROWS_SHARE:
            style, text = _rows(rng, bank, insert)
        else:
            bare = side == "benign" and rng.random() < BARE_SHARE
            style, text = _prose(rng, bank, "" if bare else insert, " " if lang == "en" else "")
        task = bank.pick(rng, "task")
        yield Row(
            text=f"{task}\n{text}".strip() if rng.random() < 0.9 else f"{text}\n\n{task}".strip(),
            label=int(side == "attack"),
            lang=lang,
            family="indirect" if side == "attack" else "document",
            style=f"grammar_{style}",
            source=SOURCE,
        )


def _kinds(bank: Bank, prefix: str) -> list[str]:
    return sorted({slot.split(".")[1] for slot in bank.slots if slot.startswith(prefix)})


def _prose(rng: random.Random, bank: Bank, insert: str, space: str) -> tuple[str, str]:
    """Sentences of one or two subjects with ``insert`` at the start, in the middle or at the end."""
    kind = rng.choice(_kinds(bank, "prose."))
    subjects = rng.sample(_kinds(bank, "sentence."), rng.choice((1, 1, 2)))
    stock = [line for subject in subjects for line in bank.slots[f"sentence.{subject}"]]
    wanted = rng.choice((2, 3, 4, 6, 9, 14, 22, 34, LONGEST))
    sentences = rng.sample(stock, min(wanted, len(stock)))
    if wanted > len(stock):
        others = [
            line for slot in sorted(bank.slots) if slot.startswith("sentence.") for line in bank.slots[slot]
        ]
        spare = [line for line in others if line not in sentences]
        sentences += rng.sample(spare, min(wanted - len(sentences), len(spare)))
    if insert:
        hidden = bank.pick(rng, "hide", {"insert": insert})
        at = rng.choice(
            (0, len(sentences), len(sentences), rng.randint(0, len(sentences)), len(sentences) // 2)
        )
        sentences.insert(at, hidden)
    body = _paragraphs(rng, sentences, space)
    return kind, bank.pick(rng, f"prose.{kind}", {"body": body})


def _paragraphs(rng: random.Random, sentences: list[str], space: str) -> str:
    every = rng.choice((3, 5, 8, 1_000))
    parts = [space.join(sentences[i : i + every]) for i in range(0, len(sentences), every)]
    return rng.choice(("\n\n", "\n")).join(parts)


def _rows(rng: random.Random, bank: Bank, insert: str) -> tuple[str, str]:
    """A table, a list of objects, a log or code whose cells or comments hold ``insert`` once."""
    kind = rng.choice(_kinds(bank, "rows."))
    form = rng.randrange(4)

    def template(part: str) -> str:
        """One form of the part for the whole document, but any of them where lines differ anyway."""
        slot = bank.slots[f"rows.{kind}.{part}"]
        return rng.choice(slot) if kind in MIXED else slot[form % len(slot)]

    wanted = rng.choice((1, 2, 4, 7, 12, 20))
    lines = list(dict.fromkeys(bank.fill(rng, template("row")) for _ in range(wanted)))
    text = sentence_case(insert).replace('"', "'").replace("\n", " ")
    lines.insert(rng.randint(0, len(lines)), bank.fill(rng, template("insert"), {"insert": text}))
    return kind, "\n".join([bank.fill(rng, template("head")), *lines])
