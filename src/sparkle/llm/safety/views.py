"""Readings of one text, each with a way back to the original's offsets.

A *view* is the text as some reader would read it: folded, without invisible characters, with separators taken out,
turned round, decoded. Views form a tree: each maps its offsets to its parent's, so a finding in a base64 layer inside
a URL-encoded layer still points at the characters that the caller sent. Views are built only when a cheap indicator
suggests them (:mod:`sparkle.llm.safety.layers`).
"""

from __future__ import annotations

import re
from array import array
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from sparkle.llm.safety.fold import GONE, expansions, fold

Run = tuple[int, int, str]
"""(start, end, replacement): code points ``start:end`` of a source read as ``replacement``."""

_EVERYDAY = frozenset(
    {
        "visible", "url", "entities", "escapes", "json", "quoted-printable", "inline tags", "string pieces",
        "named pieces", "numbered items", "odd gaps", "chinese gaps", "chinese lines", "misspelt", "pinyin",
        "homophones", "word signs", "line ends", "cut words", "respaced", "words", "items",
        "comment lines", "stretched", "masked", "glosses", "wrapped", "backslashes",
    }
)  # fmt: skip
"""Readings of ways to write that are common where nothing is hidden."""

_GONE_RUN = re.compile(GONE + "+")
_CONTROLS = dict.fromkeys((*range(9), 11, 12, *range(14, 32)), GONE)


class OffsetMap:
    """Offsets of a view in its parent, as pieces that are either copied character by character or replaced whole.

    Memory: 9 bytes a piece. Looking a span up: two binary searches.
    """

    __slots__ = ("_ends", "_starts", "_views", "_whole")

    def __init__(self) -> None:
        self._views = array("I")
        self._starts = array("I")
        self._ends = array("I")
        self._whole = bytearray()

    def add(self, view: int, start: int, end: int, *, whole: bool) -> None:
        """View offset ``view`` onwards stems from ``start:end`` of the parent, as one ``whole`` or one to one."""
        self._views.append(view)
        self._starts.append(start)
        self._ends.append(end)
        self._whole.append(whole)

    def span(self, start: int, end: int) -> tuple[int, int, bool]:
        """The parent's span for the non-empty span ``start:end`` of the view, and whether it reads otherwise there."""
        if not self._views:
            return start, end, False
        first = max(bisect_right(self._views, start) - 1, 0)
        last = max(bisect_right(self._views, max(end - 1, start)) - 1, 0)
        begin = self._starts[first] + (0 if self._whole[first] else start - self._views[first])
        finish = self._ends[last] if self._whole[last] else self._starts[last] + end - self._views[last]
        return begin, finish, finish - begin != end - start or 1 in self._whole[first : last + 1]

    def changes(self, length: int) -> Iterator[tuple[int, int]]:
        """Where a view of ``length`` code points reads otherwise than its parent; empty spans where something went."""
        last = len(self._views) - 1
        for index, start in enumerate(self._views):
            if self._whole[index]:
                yield start, length if index == last else self._views[index + 1]
            elif index and not self._whole[index - 1]:
                yield start, start
        if self._views and not self._whole[0] and self._starts[0] > 0:
            yield 0, 0

    def kept(self, length: int) -> int:
        """How many of the ``length`` code points of a view are the parent's own."""
        last = len(self._views) - 1
        return sum(
            (length if index == last else self._views[index + 1]) - start
            for index, start in enumerate(self._views)
            if not self._whole[index]
        )


class Mirror:
    """Offsets of a text read backwards; ``length`` in code points."""

    __slots__ = ("_length",)

    def __init__(self, length: int) -> None:
        self._length = length

    def span(self, start: int, end: int) -> tuple[int, int, bool]:
        """The parent's span for the span ``start:end`` of the view, and that it reads otherwise there."""
        return self._length - end, self._length - start, True


@dataclass(slots=True, eq=False)
class View:
    """One reading of a text."""

    name: str
    """What was done to the parent, e.g. ``text``, ``visible``, ``base64``, ``reversed``."""
    source: str
    """The reading with letter case kept (decoders need it)."""
    parent: View | None = None
    offsets: OffsetMap | Mirror | None = None
    """Offsets in the parent's source; ``None``: the same."""
    depth: int = 0
    """Number of readings between this one and the original."""
    disguised: bool = False
    """Whether somebody went out of their way to write it like this: encoded, turned round, pulled apart."""
    plain: bool = False
    """Whether this is the text as a reader sees it, which other readings are compared with."""
    compact: bool = False
    """Whether separators were taken out somewhere, so that patterns must not ask for them."""
    text: str = ""
    """``source`` folded; the same length."""
    data: bytes = b""
    """``text`` in UTF-8; lone surrogates are question marks, which keeps the number of code points."""

    def __post_init__(self) -> None:
        self.text = fold(self.source)
        self.data = self.text.encode("utf-8", "replace")

    def characters(self, start: int, end: int) -> tuple[int, int]:
        """The code points of the view that the bytes ``start:end`` of :attr:`data` stand for."""
        if len(self.data) == len(self.text):
            return start, end
        first = len(self.data[:start].decode("utf-8", "ignore"))
        return first, first + len(self.data[start:end].decode("utf-8", "ignore"))

    def original(self, start: int, end: int) -> tuple[int, int] | None:
        """The code points of the original text that the view's code points ``start:end`` stem from.

        ``None`` where they read just as in the original: the plain reading says all about them.
        """
        if self.parent is None:
            return start, end
        # One more on each side, because what stands beside a word decides whether it is one.
        changed = self.plain or self._changed(max(start - 1, 0), min(end + 1, len(self.source)))
        return self.place(start, end) if changed else None

    def place(self, start: int, end: int) -> tuple[int, int]:
        """The code points of the original text that the view's non-empty span ``start:end`` stems from."""
        view = self
        while view.parent is not None:
            if view.offsets is not None:
                start, end, _ = view.offsets.span(start, end)
            view = view.parent
        return start, end

    def _changed(self, start: int, end: int) -> bool:
        view = self
        while view.parent is not None:
            if view.offsets is None:
                if view.source[start:end] != view.parent.source[start:end]:
                    return True
            else:
                start, end, otherwise = view.offsets.span(start, end)
                if otherwise:
                    return True
            view = view.parent
        return False

    def undoes_parent(self) -> bool:
        """Whether this is what the parent says, decoded or put together again, and little of it stands there plainly.

        Then the parent's own characters (Base64, ``U+0048``) mean nothing to a reader of words.
        """
        if self.parent is None or not isinstance(self.offsets, OffsetMap):
            return False
        return self.offsets.kept(len(self.source)) * 5 <= len(self.parent.source) * 3

    def respells_parent(self) -> bool:
        """Whether this is the parent, some characters replaced: in no other order, and no other alphabet."""
        if self.parent is None:
            return False
        return isinstance(self.offsets, OffsetMap) or self.source == self.parent.source

    def changed_bytes(self) -> list[tuple[int, int]] | None:
        """Where :attr:`data` reads otherwise than the parent's, sorted; ``None``: everywhere.

        Only there a pattern can find what it did not find in the parent.
        """
        if self.plain or not isinstance(self.offsets, OffsetMap):
            return None
        changes = sorted(self.offsets.changes(len(self.source)))
        if len(self.data) == len(self.text):
            return changes
        found: list[tuple[int, int]] = []
        at = size = 0
        for start, end in changes:
            size += len(self.text[at:start].encode("utf-8", "replace"))
            length = len(self.text[start:end].encode("utf-8", "replace"))
            found.append((size, size + length))
            at, size = end, size + length
        return found

    def path(self) -> str:
        """The readings from the original to this one, e.g. ``visible > base64``."""
        names: list[str] = []
        view = self
        while view.parent is not None:
            names.append(view.name)
            view = view.parent
        return " > ".join(reversed(names)) or self.name

    def child(
        self, name: str, source: str, offsets: OffsetMap | Mirror | None, *, compact: bool = False
    ) -> View:
        """A further reading of this one."""
        disguised = self.disguised or name not in _EVERYDAY
        return View(
            name, source, self, offsets, self.depth + 1, disguised=disguised, compact=self.compact or compact
        )


def replace_runs(view: View, name: str, runs: Iterable[Run], *, compact: bool = False) -> View | None:
    """The view with runs read as something else, in place; ``None`` if there is none.

    ``runs`` must be sorted and must not overlap. An empty replacement takes the run out.
    """
    pieces: list[str] = []
    offsets = OffsetMap()
    at = length = 0
    for start, end, replacement in runs:
        if start > at:
            offsets.add(length, at, start, whole=False)
            pieces.append(view.source[at:start])
            length += start - at
        if replacement:
            offsets.add(length, start, end, whole=True)
            pieces.append(replacement)
            length += len(replacement)
        at = end
    if at == 0:
        return None
    if at < len(view.source):
        offsets.add(length, at, len(view.source), whole=False)
        pieces.append(view.source[at:])
    return view.child(name, "".join(pieces), offsets, compact=compact)


def visible(view: View) -> View:
    """The view without what a reader does not see: invisible characters, combining marks, control characters.

    Ligatures and the like are written out. The result is compact, because a zero-width space may have stood where
    the attacker's blank should. Returns the same view when there is nothing to take out.
    """
    text = view.text.translate(_CONTROLS)
    written = expansions()
    runs: list[Run] = []
    for match in _GONE_RUN.finditer(text):
        start, end = match.span()
        if any(ord(char) in written for char in view.source[start:end]):
            runs += [(at, at + 1, written.get(ord(view.source[at]), "")) for at in range(start, end)]
        else:
            runs.append((start, end, ""))
    return replace_runs(view, "visible", runs, compact=True) or view
