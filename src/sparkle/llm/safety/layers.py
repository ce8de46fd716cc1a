"""Which further readings of a text are worth making, and making them.

A few passes at memory speed say which to try; ordinary text asks for none. Readings are made of readings (base64 in
a URL in base64) up to a depth, a number and a total size, so the work is bounded by a multiple of the text's length
whatever the text says.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import msgspec
from msgspec import Struct

from sparkle.llm.safety import codes, decoders, encoded, respelled, segmenting
from sparkle.llm.safety.asking import Indicators
from sparkle.llm.safety.compacting import compacting, respaced
from sparkle.llm.safety.decoders import Decoder
from sparkle.llm.safety.engine import default_engine
from sparkle.llm.safety.fold import GONE
from sparkle.llm.safety.leet import Leet
from sparkle.llm.safety.resources import read_data
from sparkle.llm.safety.respellings import ascii85_indicator, misspelt, respellings
from sparkle.llm.safety.telltales import BACKWARDS_ROT13, ROT47, ROTATIONS, SPELLED, UPSIDE_DOWN, Telltales
from sparkle.llm.safety.views import Mirror, View, replace_runs, visible

MAX_DEPTH = 5
MAX_VIEWS = 24
SIZE_FACTOR = 6
SIZE_BASE = 50_000
"""All readings of a text together hold at most ``SIZE_FACTOR * length + SIZE_BASE`` code points."""

_LONG_WORD = re.compile(r"[A-Za-z]{24,}")
_WORD = re.compile(r"([.,!?;:]?)([^\W\d_]{2,})")
_TURNED = re.compile("[ɐɔǝɟƃɥᴉɾʞɯɹʇʌʍʎ]")
_ESCAPED = rb"\\u\{?[0-9a-f]{2}|\\x[0-9a-f]{2}|\\[0-7]{3}|u\+[0-9a-f]{4}|%u[0-9a-f]{4}"
_CONTROL = rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]"
_CJK = r"[\xe4-\xe9][\x80-\xbf]{2}"
_EMOJI = r"(?:\xf0[\x80-\xbf]{3}|\xe2[\x80-\xbf]{2})"
_SIGN = r"[\s!-/:-@\[-`{-~]"
_JOINED = segmenting.RUN
"""A word too long to be one: blanks were left out."""
_APART = (
    rf"(?:\b[a-z0-9](?:{_SIGN}|{_EMOJI}){{1,3}}){{4}}[a-z0-9]\b"
    rf"|(?:{_CJK}(?:{_SIGN}|{_EMOJI}){{1,3}}){{3}}{_CJK}"
    rf"|(?:{_CJK}(?:{_CJK})?{_EMOJI}{{1,3}}){{3}}{_CJK}"
).encode()
"""Single letters or Chinese characters with signs, blanks or emoji between them, several times in a row."""

_MISSPELT = "misspelt"

Rank = Literal[0, 1, 2, 3]
"""Readings follow each other in this order: decoding, taking separators out, turning or rotating letters, leet. Without
an order the same few tricks would be tried in every permutation."""


class LayerData(Struct, frozen=True, forbid_unknown_fields=True):
    """``data/layers.yaml``."""

    words: tuple[str, ...]
    words_zh: tuple[str, ...]
    around: tuple[str, ...]
    rotated: tuple[str, ...]
    reversed_zh: tuple[str, ...]
    morse: dict[str, str]
    spelling: tuple[str, ...]
    leet: dict[str, str]
    leet_other: dict[str, str]


@dataclass(frozen=True, slots=True)
class Layer:
    """One kind of further reading."""

    name: str
    indicator: bytes | None
    """Over the folded text's UTF-8 bytes: where this never matches, the reading says nothing new. ``None``: the words
    of the trade tell (:mod:`sparkle.llm.safety.telltales`)."""
    read: Callable[[View], View | None]
    rank: Rank = 0


@dataclass(frozen=True, slots=True)
class Readings:
    """All readings of one text."""

    root: View
    """The text as it came, folded."""
    views: tuple[View, ...]
    """The readings to judge, the plain one first."""
    exhausted: bool
    """Whether depth, number or size stopped further readings."""


def _decoding(name: str, indicator: bytes, decoder: Decoder, *, compact: bool = False) -> Layer:
    return Layer(name, indicator, lambda view: replace_runs(view, name, decoder(view), compact=compact))


def _translation(name: str, table: Mapping[int, str] | Mapping[str, str], rank: Rank = 2) -> Layer:
    codes = str.maketrans(dict(table))
    return Layer(name, None, lambda view: view.child(name, view.source.translate(codes), None), rank)


def _joined(view: View) -> View | None:
    """The same text, with patterns for words without blanks where there are such words."""
    runs = ((match.start(), match.end(), match.group()) for match in _LONG_WORD.finditer(view.source))
    return replace_runs(view, "joined", runs, compact=True)


def _words(view: View) -> View | None:
    # A joined view's letters are its parent's, which has this reading itself.
    return None if view.name == "joined" else replace_runs(view, "words", segmenting.segmented(view))


def _backwards(view: View) -> View:
    return view.child("reversed", view.source[::-1], Mirror(len(view.source)))


def _backwards_rotated(view: View) -> View | None:
    turned = view.source.translate(dict(ROTATIONS["rot13"]))[::-1]
    return view.child(BACKWARDS_ROT13, turned, Mirror(len(view.source)))


def _upside_down(view: View) -> View | None:
    if _TURNED.search(view.source) is None:
        return None
    return view.child("upside down", view.source.translate(UPSIDE_DOWN)[::-1], Mirror(len(view.source)))


def _words_backwards(view: View) -> View | None:
    # A mark that a reversed word begins with ended it.
    runs = ((m.start(), m.end(), m.group(2)[::-1] + m.group(1)) for m in _WORD.finditer(view.source))
    return replace_runs(view, "reversed words", runs)


def _decodings(data: LayerData, vocabulary: Collection[str]) -> Iterator[Layer]:
    spelled = "|".join(data.spelling).encode()
    yield _decoding("url", rb"%[0-9a-f]{2}", decoders.percent)
    yield _decoding("entities", rb"&(?:#x?[0-9a-f]{2}|[a-z]{2,8};)", decoders.entities)
    yield _decoding("escapes", _ESCAPED, decoders.escapes)
    yield _decoding("json", rb"[:=(,+]\s*[\"'][^\"']*\\[nrt\"'/]", decoders.json_escapes)
    yield _decoding("encoded", rb"[a-z0-9+/_-]{16}", encoded.encoded_runs)
    yield _decoding("groups", encoded.GROUPS, encoded.grouped)
    yield _decoding("hex bytes", rb"(?:[0-9a-f]{2}[\s,:;|-]{1,3}(?:0x|\\x)?){5}", decoders.hex_pairs)
    yield _decoding("binary", rb"[01]{8}[\s,]{0,2}[01]{8}", decoders.binary)
    yield _decoding("decimal", rb"(?:[0-9]{2,3}[\s,;]{1,2}){7}", decoders.decimal)
    yield _decoding("quoted-printable", rb"(?:=[0-9a-f]{2}){2}", decoders.quoted_printable)
    yield _decoding("ascii85", ascii85_indicator(), decoders.ascii85)
    for name, decoder in codes.DECODERS.items():
        yield _decoding(name, codes.INDICATORS[name], decoder)
    yield _decoding("morse", rb"(?:[.-]{1,6}[ /|]{1,3}){7}", decoders.morse(data.morse))
    spelling = decoders.spelling(data.spelling)
    yield _decoding(
        "spelling", rb"(?:" + spelled + rb")[\s,.-]{1,2}(?:" + spelled + rb")\b", spelling, compact=True
    )
    for other in respellings(vocabulary):
        yield _decoding(other.name, other.indicator, other.decoder, compact=other.compact)


def _leet(data: LayerData) -> dict[str, dict[str, str]]:
    return {"leet": data.leet, "leet (l)": data.leet | data.leet_other}


def _disguises(data: LayerData, vocabulary: Collection[str]) -> Iterator[Layer]:
    known = (*data.words, *data.around, *vocabulary)
    yield Layer("compact", _APART, compacting((*data.words, *data.words_zh), known), 1)
    yield Layer("respaced", _APART, respaced, 1)
    yield Layer("joined", _JOINED, _joined, 1)
    yield Layer("words", _JOINED, _words, 2)
    yield Layer("reversed", None, _backwards, 2)
    yield Layer("reversed words", None, _words_backwards, 2)
    yield Layer("upside down", None, _upside_down, 2)
    for name, table in ROTATIONS.items():
        yield _translation(name, table)
    yield _translation("rot47", ROT47)
    yield Layer(BACKWARDS_ROT13, None, _backwards_rotated, 2)
    leet = Leet(data.leet, data.leet_other, known)
    yield Layer("leet", None, lambda view: view.child("leet", leet.read(view.source), None), 3)
    yield _translation("leet (l)", _leet(data)["leet (l)"], 3)


class Layers:
    """The readings that exist and the indicators that ask for them. Immutable, thread-safe."""

    def __init__(self, data: LayerData, vocabulary: Collection[str] = ()) -> None:
        self._misspelt = misspelt(vocabulary)
        mended = Layer(_MISSPELT, None, lambda v: replace_runs(v, _MISSPELT, self._misspelt.mended(v)), 3)
        self.layers = (*_decodings(data, vocabulary), *_disguises(data, vocabulary), mended)
        shown = [(layer.name, layer.indicator) for layer in self.layers if layer.indicator is not None]
        self._indicators = Indicators([*shown, ("control", _CONTROL), ("signs", SPELLED)])
        self._telltales = Telltales(
            (*data.words, *data.words_zh),
            data.rotated,
            (*data.words, *data.reversed_zh),
            _leet(data),
            vocabulary,
        )

    def read(self, text: str) -> Readings:
        """All readings of ``text`` that an indicator asks for, the plain one first."""
        root = View("text", text)
        layers, hidden = self._asked_for(root)
        if not layers and not hidden:
            return Readings(root, (root,), False)
        return self._read_all(root, layers, hidden)

    def _asked_for(self, view: View) -> tuple[list[Layer], bool]:
        """The layers worth reading next, in order, and whether there are characters nobody sees."""
        found = self._indicators.match(view.data)
        if found is None:
            return list(self.layers), True
        names = found | self._telltales.disguises(view.data, spelled_with_signs="signs" in found)
        if self._misspelt.occur(view.data):
            names.add(_MISSPELT)
        if not names:
            return [], False
        if "reversed" in names:
            names.update(("reversed words", "upside down"))
        return [layer for layer in self.layers if layer.name in names], "control" in found

    def _read_all(self, root: View, layers: list[Layer], hidden: bool) -> Readings:
        views = [root]
        if hidden:
            views = [visible(root)]
            views[0].plain = True
            layers, _ = self._asked_for(views[0])
            if GONE in root.text:
                secret = (replace_runs(root, name, decoder(root)) for name, decoder in _HIDDEN)
                views.extend(view for view in secret if view is not None)
        budget = SIZE_FACTOR * len(root.source) + SIZE_BASE - sum(len(view.source) for view in views)
        seen = {(view.source, view.compact) for view in views}
        ranks: list[Rank] = [0] * len(views)
        exhausted = False
        at = 0
        while at < len(views):
            view, rank = views[at], ranks[at]
            for layer in layers if at == 0 else self._asked_for(view)[0]:
                # Disguises do not repeat, and only what was decoded or put together is decoded again.
                if layer.rank <= rank and rank > 0 and (layer.rank > 0 or rank > 1):
                    continue
                if view.depth >= MAX_DEPTH or len(views) >= MAX_VIEWS or budget <= 0:
                    exhausted = True
                    break
                further = layer.read(view)
                if further is None or (further.source, further.compact) in seen:
                    continue
                seen.add((further.source, further.compact))
                if GONE in further.text:
                    further = visible(further)
                budget -= len(further.source)
                views.append(further)
                ranks.append(max(layer.rank, rank))
            at += 1
        return Readings(root, tuple(views), exhausted)


_HIDDEN = (
    ("tags", decoders.tags),
    ("variation selectors", decoders.selectors),
    ("direction", respelled.bidi),
)


@lru_cache(maxsize=1)
def default_layers() -> Layers:
    """The layers of ``data/layers.yaml``, looking for the words of the rules besides; built once."""
    data = msgspec.yaml.decode(read_data("layers.yaml"), type=LayerData)
    return Layers(data, default_engine().vocabulary)
