"""Carriers in which a document's sentences stand: mail, page, table, code and so on, in no language of their own."""

from __future__ import annotations

import json
import random
from collections.abc import Callable


def _paragraph(rng: random.Random, parts: list[str]) -> str:
    return rng.choice((" ", " ", "\n")).join(parts)


def _mail(rng: random.Random, parts: list[str]) -> str:
    sender = rng.choice(("lena", "office", "a.novak", "info", "team"))
    return f"From: {sender}@example.invalid\nSubject: {parts[-1]}\n\n" + "\n\n".join(parts)


def _html(rng: random.Random, parts: list[str]) -> str:
    tags = ("<p>{}</p>", "<li>{}</li>", "<div>{}</div>", "<!-- {} -->", "<p hidden>{}</p>", '<img alt="{}">')
    return "\n".join((tags[0] if rng.random() < 0.7 else rng.choice(tags)).format(part) for part in parts)


def _markdown(rng: random.Random, parts: list[str]) -> str:
    mark = rng.choice(("- ", "* ", "> ", "1. ", "- [ ] "))
    return f"# {parts[0]}\n\n" + "\n".join(mark + part for part in parts[1:])


def _json(rng: random.Random, parts: list[str]) -> str:
    keys = rng.choice((("id", "text"), ("row", "comment"), ("no", "note"), ("page", "content")))
    rows = [{keys[0]: number, keys[1]: part} for number, part in enumerate(parts, rng.randint(1, 900))]
    return json.dumps(rows, ensure_ascii=False, indent=rng.choice((None, 1, 2)))


def _table(rng: random.Random, parts: list[str]) -> str:
    split = rng.choice((",", ";", "\t", " | "))
    rows = (f"{rng.randint(1, 999)}{split}{rng.randint(2, 90)}{split}{part}" for part in parts)
    return f"id{split}n{split}text\n" + "\n".join(rows)


def _code(rng: random.Random, parts: list[str]) -> str:
    mark, lines = rng.choice(
        (
            ("# ", ("def area(a, b):", "    return a * b", "print(area(2, 3))")),
            ("// ", ("let n = 0;", "n += list.length;", "export { n };")),
            ("-- ", ("SELECT id, city", "FROM clients", "ORDER BY city;")),
        )
    )
    out = list(lines)
    for part in parts[:5]:
        out.insert(rng.randint(0, len(out)), mark + part)
    return "\n".join(out)


def _subtitles(rng: random.Random, parts: list[str]) -> str:
    at = rng.randint(1, 40)
    return "\n\n".join(
        f"{n}\n00:0{n % 10}:{at:02d} --> 00:0{n % 10}:{at + 4:02d}\n{part}" for n, part in enumerate(parts, 1)
    )


def _chat(rng: random.Random, parts: list[str]) -> str:
    people = rng.sample(("A", "B", "Mia", "Leo", "Kim", "Sam"), 2)
    return "\n".join(f"{people[n % 2]}: {part}" for n, part in enumerate(parts))


Carrier = Callable[[random.Random, list[str]], str]
CARRIERS: tuple[tuple[str, Carrier], ...] = (
    ("paragraph", _paragraph),
    ("paragraph", _paragraph),
    ("mail", _mail),
    ("html", _html),
    ("markdown", _markdown),
    ("json", _json),
    ("table", _table),
    ("code", _code),
    ("subtitles", _subtitles),
    ("chat", _chat),
)
