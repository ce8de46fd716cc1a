"""The texts to judge, where each stands, and how neighbouring texts are read as one."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from msgspec import Struct

from sparkle.llm.policy import Trust
from sparkle.llm.safety.redact import Keys

EDGE_CHARS = 1_000
"""Of a longer text only this much of its beginning and its end is read together with its neighbours."""

STRETCH_CHARS = 50_000
"""Of more text that is read together one judgement would hold up other threads for too long."""

TURNS = 8
"""Of a conversation the user's last so many turns are read as one text, too."""

FEW = 16
"""Up to so many texts are judged one by one as well as joined; of more the short ones are only judged joined."""

TOOL_FIELDS = frozenset({"tools", "functions"})
"""Fields of a request that define tools."""

_GAP = ".\n\n"
_SPOKEN = frozenset({"text", "content"})
_ORDER: dict[Trust, int] = {"off": 0, "trusted": 1, "watch": 2, "untrusted": 3, "indirect": 4}
_PLAIN_KEY = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.\-]{0,39}", re.ASCII)


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of a piece within a joined text."""

    piece: Piece
    start: int
    end: int
    """``start:end`` of the piece's text."""
    at: int
    """Where it begins in the joined text."""
    own: bool
    """The piece is also judged by itself, so that what lies in it alone is told there."""


class Piece(Struct, frozen=True):
    """One text to judge."""

    keys: Keys
    text: str
    trust: Trust
    segments: tuple[Segment, ...] = ()
    """What ``text`` is joined from, in order; empty: it is one text of the caller's."""
    length: int | None = None
    """Code points of the value that ``text`` was decoded from; findings then span all of it. ``None``: not decoded."""
    fixed: bool = False
    """Nothing can be taken out of it: it is a key, or stands outside the messages."""

    @property
    def defines_tools(self) -> bool:
        """Whether it is part of a tool's definition."""
        return self.keys[0] in TOOL_FIELDS

    def path(self) -> str:
        """The place in the caller's terms: ``messages[2].content[0].text``."""
        return render_path(self.keys)

    def places(self, start: int, end: int) -> list[tuple[Piece, int, int]]:
        """The pieces that ``start:end`` of the text lies in, each with its own span.

        Empty where the span of a joined text lies in one piece that is judged by itself.
        """
        if not self.segments:
            return [(self, 0, self.length) if self.length is not None else (self, start, end)]
        found: list[tuple[Piece, int, int]] = []
        first: Segment | None = None
        several = False
        for segment in self.segments:
            finish = segment.at + segment.end - segment.start
            if start >= finish or end <= segment.at:
                continue
            several = several or (first is not None and first.piece is not segment.piece)
            first = first or segment
            shift = segment.start - segment.at
            piece = segment.piece
            if piece.length is not None:
                found.append((piece, 0, piece.length))
            else:
                found.append((piece, max(start, segment.at) + shift, min(end, finish) + shift))
        return [] if first is not None and first.own and not several else found


class Pieces(Struct, frozen=True):
    """Everything to judge in one request."""

    items: list[Piece]
    most_parts: int
    """Most content parts of one message."""
    strings: int
    """Separate strings, keys included; beyond the limit the rest was not collected."""
    total: int
    """Code points of all strings."""


def render_path(keys: Keys) -> str:
    """``(2, "content", 0, "text")`` as ``messages[2].content[0].text``; other fields begin with their name.

    A key that is no plain name is written ``*``: paths reach logs and records, the caller's words must not.
    """
    path = "messages" if isinstance(keys[0], int) else ""
    for key in keys:
        if isinstance(key, int):
            path += f"[{key}]"
        else:
            name = key if _PLAIN_KEY.fullmatch(key) else "*"
            path += f".{name}" if path else name
    return path


def read_together(items: list[Piece], first: int, seams: Sequence[str], *, few: int = FEW) -> None:
    """Have ``items[first:]`` judged as one text too, or only so where they are many and short.

    Models read neighbouring texts with or without something between them, and an attack may be cut for either. Without
    anything they are read only if a word can have been cut. Watched texts are joined apart from enforced ones; trusted
    ones are not read at all.

    Args:
        items: changed in place.
        first: index of the first text to join.
        seams: what may stand between two texts.
        few: up to so many texts all are judged by themselves.
    """
    texts = items[first:]
    enforced = [piece for piece in texts if _ORDER[piece.trust] >= _ORDER["untrusted"]]
    watched = [piece for piece in texts if piece.trust == "watch"]
    for group in (enforced, watched):
        if len(group) < 2:
            continue
        own = [len(group) <= few or len(p.text) > 2 * EDGE_CHARS or p.length is not None for p in group]
        if not all(own):
            gone = {id(piece) for piece, alone in zip(group, own, strict=True) if not alone}
            items[first:] = [piece for piece in items[first:] if id(piece) not in gone]
        for start, end in _stretches(group):
            near, judged = group[start:end], own[start:end]
            items.extend(_join(near, judged, seam) for seam in seams if seam or _word_cut(near))
        # What is shown to the model as text, without what stands between: addresses of pictures, file names.
        spoken = [n for n, piece in enumerate(group) if piece.keys[-1] in _SPOKEN]
        if 1 < len(spoken) < len(group):
            items.append(_join([group[n] for n in spoken], [own[n] for n in spoken], seams[0]))


def join_turns(turns: Sequence[Piece]) -> Piece:
    """One speaker's turns as one text, though somebody answered in between: an attack may be spread over them."""
    latest = turns[-TURNS:]
    return _join(latest, [True] * len(latest), "\n")


def _stretches(group: list[Piece]) -> list[tuple[int, int]]:
    """The group in stretches of about :data:`STRETCH_CHARS`, each beginning with the last texts of the one before."""
    found: list[tuple[int, int]] = []
    start = size = 0
    for index, piece in enumerate(group):
        size += min(len(piece.text), 2 * EDGE_CHARS)
        if size > STRETCH_CHARS and index > start:
            found.append((start, index + 1))
            back, size = index, min(len(piece.text), 2 * EDGE_CHARS)
            while back - 1 > start and size < EDGE_CHARS:
                back -= 1
                size += min(len(group[back].text), 2 * EDGE_CHARS)
            start = back
    if not found or found[-1][1] < len(group):
        found.append((start, len(group)))
    return found


def _word_cut(group: list[Piece]) -> bool:
    return any(a.text[-1].isalnum() and b.text[0].isalnum() for a, b in pairwise(group))


def _join(group: Sequence[Piece], own: Sequence[bool], seam: str) -> Piece:
    texts: list[str] = []
    segments: list[Segment] = []
    at = 0
    strictest = max(group, key=lambda piece: _ORDER[piece.trust])
    for piece, judged in zip(group, own, strict=True):
        size = len(piece.text)
        spans = ((0, size),) if size <= 2 * EDGE_CHARS else ((0, EDGE_CHARS), (size - EDGE_CHARS, size))
        for start, end in spans:
            glue = "" if not texts else _GAP if start else seam
            at += len(glue)
            texts += (glue, piece.text[start:end])
            segments.append(Segment(piece, start, end, at, judged))
            at += end - start
    return Piece(strictest.keys, "".join(texts), strictest.trust, tuple(segments))
