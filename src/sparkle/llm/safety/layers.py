"""Which further readings of a text are worth making, and making them.

One pass with a set of small indicator patterns says which decoders to try; ordinary text fires none of them, so the
whole machinery costs it one pass. Readings are made of readings (base64 in a URL in base64) up to a depth, a number and
a total size, so the work is bounded by a multiple of the text's length whatever the text says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain

import msgspec
from msgspec import Struct

from sparkle.llm.safety import decoders
from sparkle.llm.safety.decoders import Decoder
from sparkle.llm.safety.fold import GONE
from sparkle.llm.safety.regex import RegexSet
from sparkle.llm.safety.resources import read_data
from sparkle.llm.safety.views import Mirror, Run, View, replace_runs, visible

MAX_DEPTH = 4
MAX_VIEWS = 24
SIZE_FACTOR = 6
SIZE_BASE = 50_000
"""All readings of a text together hold at most ``SIZE_FACTOR * length + SIZE_BASE`` code points."""

_LATIN_RUN = re.compile(r"(?<![a-z0-9])[a-z0-9](?:[\W_]{1,3}[a-z0-9]){4,}(?![a-z0-9])")
_CHINESE_RUN = re.compile("[\u4e00-\u9fff]{1,2}(?:[\\W_]{1,3}[\u4e00-\u9fff]{1,2}){3,}")
_GAP = re.compile(r"[\W_]+")
_HYPHENS = re.compile(r"(?<=[a-z])[-._*|~\\]{1,2}(?=[a-z])")
_WORD = re.compile(r"[^\W\d_]{3,}")
_CJK = rb"[\xe4-\xe9][\x80-\xbf][\x80-\xbf]"
_BETWEEN = rb"(?:[\s!-/:-@\[-`{-~]|\xf0[\x80-\xbf]{3}|[\xe2\xe3][\x80-\xbf]{2})"


class LayerData(Struct, frozen=True, forbid_unknown_fields=True):
    """``data/layers.yaml``."""

    telltale_words: tuple[str, ...]
    telltale_words_zh: tuple[str, ...]
    morse: dict[str, str]
    spelling: tuple[str, ...]
    leet: dict[str, str]
    leet_other: dict[str, str]


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind of further reading."""

    name: str
    indicator: bytes
    """Over the folded text's UTF-8 bytes: where this never matches, the reading cannot say anything new."""
    read: Callable[[View], View | None]


def _decoding(name: str, indicator: bytes, decoder: Decoder) -> Layer:
    return Layer(name, indicator, lambda view: replace_runs(view, name, decoder(view)))


def _translation(name: str, indicator: bytes, table: dict[int, str]) -> Layer:
    return Layer(name, indicator, lambda view: view.child(name, view.source.translate(table), None))


def _either(words: Iterator[str] | list[str]) -> bytes:
    return "|".join(sorted({re.escape(word) for word in words})).encode()


def _rotation(shift: int) -> dict[int, str]:
    return {start + i: chr(start + (i + shift) % 26) for start in (65, 97) for i in range(26)}


def _atbash() -> dict[int, str]:
    return {start + i: chr(start + 25 - i) for start in (65, 97) for i in range(26)}


def _compact(view: View) -> View | None:
    """``i g n o r e``, ``in-struc-tions`` and ``忽/略`` without what stands between the letters."""
    gaps: set[tuple[int, int]] = {match.span() for match in _HYPHENS.finditer(view.text)}
    for run in chain(_LATIN_RUN.finditer(view.text), _CHINESE_RUN.finditer(view.text)):
        gaps.update(gap.span() for gap in _GAP.finditer(view.text, run.start(), run.end()))
    runs: list[Run] = []
    for start, end in sorted(gaps):
        if not runs or start >= runs[-1][1]:
            runs.append((start, end, ""))
    return replace_runs(view, "compact", runs, compact=True)


def _backwards(view: View) -> View:
    return view.child("reversed", view.source[::-1], Mirror(len(view.source)))


def _words_backwards(view: View) -> View | None:
    return replace_runs(
        view, "reversed words", ((m.start(), m.end(), m.group()[::-1]) for m in _WORD.finditer(view.source))
    )


def _leet_tables(data: LayerData) -> tuple[dict[int, str], dict[int, str]]:
    first = {ord(sign): letter for sign, letter in data.leet.items()}
    return first, first | {ord(sign): letter for sign, letter in data.leet_other.items()}


@dataclass(frozen=True, slots=True)
class Readings:
    """All readings of one text."""

    root: View
    """The text as it came, folded."""
    views: tuple[View, ...]
    """The readings to judge, the plain one first."""
    exhausted: bool
    """Whether depth, number or size stopped further readings."""


class Layers:
    """The readings that exist and the indicators that ask for them. Immutable, thread-safe."""

    def __init__(self, data: LayerData) -> None:
        words = list(data.telltale_words)
        long_words = [word for word in words if len(word) >= 6 and " " not in word]
        leet, leet_other = _leet_tables(data)
        signs = rb"[013457@$!|]"
        mirrored = [word[::-1] for word in (*words, *data.telltale_words_zh)]
        layers = [
            _decoding("url", rb"%[0-9a-f]{2}", decoders.percent),
            _decoding("entities", rb"&(?:#x?[0-9a-f]{2}|[a-z]{2,8};)", decoders.entities),
            _decoding("escapes", rb"\\[unrtx0-7\"'/\\bf]|u\+[0-9a-f]{4}|%u[0-9a-f]{4}", decoders.escapes),
            _decoding("encoded", rb"[a-z0-9+/_-]{16}", decoders.encoded_runs),
            _decoding("hex bytes", rb"(?:[0-9a-f]{2}[\s,:;|-]{1,3}(?:0x|\\x)?){5}", decoders.hex_pairs),
            _decoding("binary", rb"[01]{8}[\s,]{0,2}[01]{8}", decoders.binary),
            _decoding("decimal", rb"(?:[0-9]{2,3}[\s,;]{1,2}){7}", decoders.decimal),
            _decoding("quoted-printable", rb"(?:=[0-9a-f]{2}){2}", decoders.quoted_printable),
            _decoding("ascii85", rb"<~|(?:ascii|base) ?-?85|[ab]85", decoders.ascii85),
            _decoding("morse", rb"(?:[.-]{1,6}[ /|]{1,3}){7}", decoders.morse(data.morse)),
            _decoding(
                "spelling", rb"(?:" + _either(list(data.spelling)) + rb")[\s,.-]{1,2}(?:" + _either(list(data.spelling)) + rb")\b",
                decoders.spelling(data.spelling),
            ),
            Layer(
                "compact",
                rb"(?:\b[a-z0-9](?:[\s!-/:-@\[-`{-~]{1,3}|\xf0[\x80-\xbf]{3}|[\xe2\xe3][\x80-\xbf]{2})){4}"
                rb"|(?:[a-z]{1,5}[-._*|~\\]{1,2}){3}[a-z]"
                rb"|" + _CJK + rb"(?:" + _CJK + rb")?(?:" + _BETWEEN + rb"{1,3}" + _CJK + rb"(?:" + _CJK + rb")?){3}",
                _compact,
            ),
            _translation("leet", rb"[a-z]" + signs + rb"[a-z]|\b" + signs + rb"[a-z]{2}|[a-z]{2}" + signs + rb"\b", leet),
            _translation("leet (l)", rb"[a-z][1!|][a-z1!|]|\b[1!|][a-z]{2}", leet_other),
            Layer("reversed", _either(mirrored), _backwards),
            Layer("reversed words", _either(mirrored), _words_backwards),
            _translation("atbash", _either([word.translate(_atbash()) for word in long_words]), _atbash()),
            *(
                _translation(
                    f"rot{shift}",
                    _either([word.translate(_rotation(-shift)) for word in (words if shift == 13 else long_words)]),
                    _rotation(shift),
                )
                for shift in range(1, 26)
            ),
        ]  # fmt: skip
        self.layers = tuple(layers)
        self._indicators = RegexSet([*(layer.indicator for layer in layers), rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"])
        self._hidden = len(layers)

    def read(self, text: str) -> Readings:
        """All readings of ``text`` that an indicator asks for, the plain one first."""
        root = View("text", text)
        found = self._indicators.match(root.data)
        if found == []:
            return Readings(root, (root,), False)
        return self._read_all(root, found)

    def _read_all(self, root: View, found: list[int] | None) -> Readings:
        plain = root
        views: list[View] = []
        if found is None or self._hidden in found:
            plain = visible(root)
            found = self._indicators.match(plain.data)
            if GONE in root.text:
                for name, decoder in (("tags", decoders.tags), ("variation selectors", decoders.selectors)):
                    hidden = replace_runs(root, name, decoder(root))
                    if hidden is not None:
                        views.append(hidden)
        views.insert(0, plain)
        budget = SIZE_FACTOR * len(root.source) + SIZE_BASE - sum(len(view.source) for view in views)
        seen = {view.source for view in views}
        exhausted = False
        hits: dict[int, list[int] | None] = {0: found}
        at = 0
        while at < len(views):
            view = views[at]
            indices = hits[at] if at in hits else self._indicators.match(view.data)
            at += 1
            for index in range(len(self.layers)) if indices is None else sorted(indices):
                if index >= self._hidden:
                    continue
                if view.depth >= MAX_DEPTH or len(views) >= MAX_VIEWS or budget <= 0:
                    exhausted = True
                    break
                further = self.layers[index].read(view)
                if further is None or further.source in seen:
                    continue
                if GONE in further.text:
                    further = visible(further)
                budget -= len(further.source)
                seen.add(further.source)
                views.append(further)
        return Readings(root, tuple(views), exhausted)


@lru_cache(maxsize=1)
def default_layers() -> Layers:
    """The layers of ``data/layers.yaml``, built once."""
    return Layers(msgspec.yaml.decode(read_data("layers.yaml"), type=LayerData))
