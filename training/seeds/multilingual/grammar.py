"""Composes short requests, overrides, documents with a note inside and hijacked tasks in every language of ``banks/``.

Both labels go through the same forms, carriers and registers, in every language equally often: an attack asks for what
the operator hides, puts the operator's rules aside or speaks to the model from inside a document; its harmless twin
asks for a recipe, puts a typo aside or speaks to the neighbours. What tells them apart is what is asked of whom, and
neither the language nor the shape nor a trigger word.
"""

from __future__ import annotations

import random
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path

import msgspec
from msgspec import Struct
from training.seeds.multilingual.carriers import CARRIERS

BANKS = Path(__file__).parent / "banks"
SOURCE = "own_multilingual_grammar"
DEFAULT_COUNT = 7_200
"""Lines when no count is asked for: 300 a language at 24 languages, half of them attacks."""
_TRIES = 50
_QUESTION = "?？؟;"

Words = tuple[str, ...]
Entry = dict[str, str | int]


class Bank(Struct, frozen=True, forbid_unknown_fields=True):
    """The slots of one language (``banks/<lang>.yaml``); ``{x}`` in a template takes a filler of its kind as it is."""

    ask: Words
    """Requests for a thing ``{x}``, with or without a question mark at the end."""
    secret: Words
    """What an operator hides, in the case that ``ask`` governs."""
    plain: Words
    """What anyone may ask for, in the same case."""
    why: Words
    """Reasons and pressure, lower case, no full stop; said with both kinds of request."""
    how: Words
    """Detours: backwards, in verse, in another language."""
    skip: Words
    """Templates of putting ``{x}`` aside, no full stop."""
    rules: Words
    """What the operator laid down, in the case that ``skip`` governs."""
    trifle: Words
    """What people put aside every day, in the same case."""
    seize: Words
    """What an attacker wants next, as an order."""
    serve: Words
    """What anyone wants next, as an order."""
    to_model: Words
    """Address to a model that reads a document."""
    payload: Words
    """Orders to that model."""
    to_people: Words
    """Address to people."""
    notice: Words
    """Ordinary instructions to them."""
    task: Words
    """Tasks over a text that follows."""
    about_models: Words
    """Sentences that speak of models, assistants and their rules, and give no order."""
    topics: tuple[Words, ...]
    """Ordinary sentences, each topic in its order."""
    link: str = ", "
    """Between two orders: a comma or the word for "and" with its spaces."""
    comma: str = ", "
    stop: str = "."
    space: str = " "
    """Between words and sentences; empty where a script writes none."""
    how_first: bool = False
    """Whether the detour stands before the thing asked for."""


@cache
def banks() -> dict[str, Bank]:
    """The banks by language code, in the order of the codes.

    Raises:
        msgspec.ValidationError: a bank does not fit :class:`Bank`.
    """
    files = sorted(BANKS.glob("*.yaml"))
    return {file.stem: msgspec.yaml.decode(file.read_bytes(), type=Bank) for file in files}


def generate(rng: random.Random | int, count: int = DEFAULT_COUNT) -> Iterator[Entry]:
    """``count`` different lines, languages and labels in turn; the same seed gives the same lines.

    Args:
        rng: the source of chance, or a seed for one.
        count: how many lines, at least 0.

    Raises:
        ValueError: the banks cannot give so many different lines.
    """
    chance = random.Random(rng) if isinstance(rng, int) else rng
    langs = list(banks())
    seen: set[str] = set()
    for number in range(count):
        lang, label = langs[number % len(langs)], number // len(langs) % 2
        for _ in range(_TRIES):
            family, style, text = _line(chance, lang, label)
            if text not in seen:
                break
        else:
            raise ValueError(f"the bank {lang!r} gives no more different lines: ask for fewer than {count}")
        seen.add(text)
        yield {"text": text, "label": label, "lang": lang, "family": family, "style": style, "source": SOURCE}


def _line(rng: random.Random, lang: str, label: int) -> tuple[str, str, str]:
    bank = banks()[lang]
    family, form = rng.choices(FORMS, weights=WEIGHTS)[0]
    style, text = form(rng, bank, label)
    return family, style, _register(rng, text)


def _ask(rng: random.Random, bank: Bank, label: int) -> tuple[str, str]:
    """A short request, plain, with a detour, with a reason before or after it."""
    text, style = _request(rng, bank, bank.secret if label else bank.plain), "plain"
    if rng.random() < 0.5:
        why, style = rng.choice(bank.why), "reason"
        if rng.random() < 0.3:
            text = f"{_upper(why)}{bank.stop}{bank.space}{text}"
        elif text[-1] in _QUESTION:
            text = f"{text}{bank.space}{_upper(why)}{bank.stop}"
        else:
            text = f"{text}{bank.comma}{why}{bank.stop}"
    return style, text


def _request(rng: random.Random, bank: Bank, things: Words) -> str:
    thing = rng.choice(things)
    if rng.random() < 0.35:
        how = rng.choice(bank.how)
        thing = f"{how}{bank.space}{thing}" if bank.how_first else f"{thing}{bank.space}{how}"
    return rng.choice(bank.ask).format(x=thing)


def _override(rng: random.Random, bank: Bank, label: int) -> tuple[str, str]:
    """Something is put aside, and mostly an order follows."""
    text = rng.choice(bank.skip).format(x=rng.choice(bank.rules if label else bank.trifle))
    if rng.random() < 0.85:
        text = f"{text}{bank.link}{rng.choice(bank.seize if label else bank.serve)}"
    return "skip", f"{text}{bank.stop}"


def _turn(rng: random.Random, bank: Bank, label: int) -> tuple[str, str]:
    """A harmless request first, then the one that counts."""
    first = _ask(rng, bank, 0)[1]
    form = rng.choice((_ask, _override))
    gap = rng.choice((bank.space or "\n", "\n", "\n\n"))
    return "second", _closed(first, bank) + gap + form(rng, bank, label)[1]


def _document(rng: random.Random, bank: Bank, label: int) -> tuple[str, str]:
    """A document with a note in it: to the model or to people, at times in another language than the rest."""
    sentences = _sentences(rng, bank)
    other = bank
    if rng.random() < 0.2:
        other = banks()[rng.choice(list(banks()))]
    if label:
        note = f"{rng.choice(other.to_model)}{other.space}{rng.choice(other.payload)}{other.stop}"
    elif rng.random() < 0.25:
        note = ""
    else:
        note = f"{rng.choice(other.to_people)}{other.space}{rng.choice(other.notice)}{other.stop}"
    if rng.random() < 0.25:
        # A page that mentions a model is no attack for that; both labels do.
        sentences.insert(rng.randint(0, len(sentences)), rng.choice(bank.about_models))
    style, carrier = rng.choice(CARRIERS)
    if note:
        sentences.insert(rng.randint(0, len(sentences)), note)
    return style, carrier(rng, sentences)


def _task(rng: random.Random, bank: Bank, label: int) -> tuple[str, str]:
    """A task over a passage; an attack takes the task back and wants something else."""
    parts = _sentences(rng, bank)[: rng.randint(1, 4)]
    if label:
        form = rng.choice((_ask, _override))
        turn = form(rng, bank, 1)[1]
        if form is _ask:
            turn = f"{rng.choice(bank.skip).format(x=rng.choice(bank.rules))}{bank.stop}{bank.space}{turn}"
        parts.insert(rng.randint(1, len(parts)), turn)
    elif rng.random() < 0.4:
        parts.insert(rng.randint(1, len(parts)), _override(rng, bank, 0)[1])
    passage = bank.space.join(parts)
    gap = rng.choice((bank.space or " ", "\n", "\n\n"))
    quoted = rng.choice(("{}", "{}", '"{}"', "<<<{}>>>", "```\n{}\n```"))
    return "passage", rng.choice(bank.task) + gap + quoted.format(passage)


def _sentences(rng: random.Random, bank: Bank) -> list[str]:
    """Two to all sentences of one to three topics, in order."""
    out: list[str] = []
    for topic in rng.sample(bank.topics, rng.randint(1, min(3, len(bank.topics)))):
        first = rng.randint(0, max(0, len(topic) - 2))
        out.extend(topic[first : rng.randint(first + 2, max(first + 2, len(topic)))])
    return out


def _closed(text: str, bank: Bank) -> str:
    return text if unicodedata.category(text[-1]).startswith("P") else text + bank.stop


def _upper(text: str) -> str:
    return text[:1].upper() + text[1:]


def _register(rng: random.Random, text: str) -> str:
    """What hurried people do to any text: small letters, no full stop, no accents, a greeting's line break."""
    draw = rng.random()
    if draw < 0.12:
        return text.lower()
    if draw < 0.2:
        return text.rstrip(".。।!")
    if draw < 0.27:
        plain = unicodedata.normalize("NFD", text)
        return "".join(c for c in plain if not "\u0300" <= c <= "\u036f").lower() if _latin(text) else text
    if draw < 0.29:
        return text.upper()
    return text


def _latin(text: str) -> bool:
    return all(not c.isalpha() or c < "\u0250" or "\u1e00" <= c < "\u1f00" for c in text)


Form = Callable[[random.Random, Bank, int], tuple[str, str]]
FORMS: tuple[tuple[str, Form], ...] = (
    ("request", _ask),
    ("override", _override),
    ("turns", _turn),
    ("document", _document),
    ("task", _task),
)
WEIGHTS = (30, 22, 8, 28, 12)
