"""What the load generators ask: ordinary questions in two languages, the same ones in every run."""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path

import msgspec
from msgspec import Struct

SERIAL_WIDTH = 8
SHORTEST, LONGEST = 100, 600
"""Length of a text in characters."""
MODEL = "gpt-mock"
SLOW_MODEL = "gpt-mock20"
"""The mock upstream waits 20 ms between the chunks of this model."""

_SYSTEM = "You are a helpful assistant that answers briefly."
_BASELINE = (
    "Explain in two sentences how a reverse proxy forwards a request to an upstream server and what it does with the "
    "reply, and mention one reason why a team would run it in front of a language model."
)
_USERS = 200


class Phrases(Struct, frozen=True, forbid_unknown_fields=True):
    """The sentences of one language; ``{topic}`` stands for one of the topics."""

    topics: tuple[str, ...]
    openers: tuple[str, ...]
    details: tuple[str, ...]
    requests: tuple[str, ...]


class PhraseBook(Struct, frozen=True, forbid_unknown_fields=True):
    """All languages."""

    languages: dict[str, Phrases]


@dataclass(frozen=True, slots=True)
class Body:
    """One request body, cut where a serial number makes it unlike every other; ``tail`` empty: it stays constant."""

    head: str
    tail: str

    def numbered(self, serial: int) -> bytes:
        """The body as UTF-8 JSON with this serial number."""
        number = f"{serial:0{SERIAL_WIDTH}d}" if self.tail else ""
        return (self.head + number + self.tail).encode()


def texts(count: int = 400, seed: int = 20261122) -> list[str]:
    """``count`` different texts of 100 to 600 characters, English and Chinese by turns."""
    book = msgspec.yaml.decode(Path(__file__).with_name("prompts.yaml").read_bytes(), type=PhraseBook)
    languages = list(book.languages.values())
    rng = random.Random(seed)
    made: dict[str, None] = {}
    while len(made) < count:
        made[_text(languages[len(made) % len(languages)], rng)] = None
    return list(made)


def varied(*, model: str = MODEL, stream: bool = False, count: int = 400) -> list[Body]:
    """Bodies with different texts, each with room for a serial number, from 200 users."""
    return [
        _cut(text + " (#\0)", model, stream, user=f"student-{i % _USERS}")
        for i, text in enumerate(texts(count))
    ]


def constant(*, model: str = MODEL, stream: bool = False) -> list[Body]:
    """The one constant body that the table of targets was measured with."""
    return [Body(_json(_BASELINE, model, stream, user=None), "")]


def write(bodies: list[Body], path: Path) -> Path:
    """Write the bodies as bench/post.lua reads them; returns ``path``."""
    path.write_text("".join(f"{body.head}\n{body.tail}\n" for body in bodies), encoding="utf-8")
    return path


def read(path: Path) -> list[Body]:
    """The bodies that :func:`write` wrote."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return [Body(head, tail) for head, tail in zip(lines[:-1:2], lines[1::2], strict=True)]


def _text(phrases: Phrases, rng: random.Random) -> str:
    gap = " " if phrases.openers[0].isascii() else ""
    request = rng.choice(phrases.requests)
    text = rng.choice(phrases.openers).replace("{topic}", rng.choice(phrases.topics))
    wanted = rng.randint(SHORTEST, LONGEST - 60)
    for detail in rng.sample(phrases.details, len(phrases.details)):
        if len(text) + len(request) >= wanted:
            break
        if len(text) + len(detail) + len(request) + 2 * len(gap) <= LONGEST:
            text += gap + detail
    return text + gap + request


def _cut(text: str, model: str, stream: bool, user: str) -> Body:
    head, tail = _json(text, model, stream, user).split("\\u0000")
    return Body(head, tail)


def _json(text: str, model: str, stream: bool, user: str | None) -> str:
    body: dict[str, object] = {
        "model": model,
        "messages": [{"role": "system", "content": _SYSTEM}, {"role": "user", "content": text}],
        "max_tokens": 60,
        "temperature": 0.2,
    }
    if user is not None:
        body["user"] = user
    if stream:
        body |= {"stream": True, "stream_options": {"include_usage": True}}
    return msgspec.json.encode(body).decode()
