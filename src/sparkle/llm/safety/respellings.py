"""The further readings that undo respelling, as data: name, what in a text asks for it, and the decoder."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass

import msgspec
from msgspec import Struct

from sparkle.llm.safety import respelled, wordshapes, wordsigns
from sparkle.llm.safety.chinese import GLOSSES, TONE_NUMBERS, Homophones, Parts, glosses, tone_numbers
from sparkle.llm.safety.decoders import Decoder
from sparkle.llm.safety.misspelt import Misspelt
from sparkle.llm.safety.pinyin import Pinyin
from sparkle.llm.safety.resources import read_data

_INLINE = (
    rb"</(?:b|i|u|s|a|q|em|strong|span|font|mark|small|big|su[bp]|code|tt|abbr|cite|kbd|var|ins|del)>[^<]{0,3}<"
    rb"|[^\s<>]<(?:wbr|!--)|[^\s<>]{3}<br ?/?>[^\s<>]+<br"
)
_CHINESE = rb"[\xe4-\xe9][\x80-\xbf]{2}"
_EMOJI = rb"(?:\xf0[\x80-\xbf]{3}|\xe2[\x80-\xbf]{2})"
_85 = rb"<~|(?:ascii|base) ?-?85|[ab]85|(?:[!-~]{0,24}[#$%&*;<>?@^`{|}~!\"'(),][!-~]?[a-z0-9]){4}"
"""Ascii85 and base85 by name, by Adobe's brackets, or as a run in which signs stand beside letters again and again."""


class _Data(Struct, frozen=True, forbid_unknown_fields=True):
    """``data/respelling.yaml``."""

    misspelt: tuple[str, ...]
    spelt: tuple[str, ...]
    heard: tuple[tuple[str, str], ...]
    pig_latin: tuple[str, ...]
    short: tuple[str, ...]
    chat: dict[str, str]
    piece_names: tuple[str, ...]
    onsets: tuple[str, ...]


class _Chinese(Struct, frozen=True, forbid_unknown_fields=True):
    """``data/chinese.yaml``."""

    pinyin: dict[str, str]
    pinyin_around: dict[str, str]
    readings: str
    sounds: tuple[str, ...]
    sound_words: tuple[str, ...]
    parts: dict[str, str]


@dataclass(frozen=True, slots=True)
class Respelling:
    """One further reading."""

    name: str
    indicator: bytes
    """Over the folded text's UTF-8 bytes; where it never matches, the reading says nothing new."""
    decoder: Decoder
    compact: bool = False
    """Whether blanks may be missing in what it reads."""


def respellings(vocabulary: Collection[str] = ()) -> Iterator[Respelling]:
    """All but :func:`misspelt`, in the order in which they are tried; ``vocabulary``: words that the rules look for."""
    data = msgspec.yaml.decode(read_data("respelling.yaml"), type=_Data)
    names = "|".join(sorted(data.piece_names)).encode()
    yield Respelling("base58", rb"[1-9a-z]{32}", respelled.base58)
    yield Respelling("letter numbers", rb"(?:[0-9]{1,2}(?:-|[.,]? )){8}[0-9]", respelled.letter_numbers)
    yield Respelling(
        "pig latin",
        rb"(?:[a-z]ay\b[^a-z]{1,3}[a-z]+){2}",
        respelled.pig_latin((*data.pig_latin, *data.misspelt, *data.short), data.onsets),
    )
    yield Respelling("inline tags", _INLINE, respelled.inline_tags)
    yield Respelling(
        "items",
        rb"(?:[^\s\"'] ?[\"']\s?(?::\s?[0-9a-z.]{1,9}\s?)?,\s{0,8}[\"'] ?"
        rb"[^\s\"':,{}]{1,24}(?: [^\s\"':,{}]{1,24}){0,2}){3}",
        respelled.items,
    )
    yield Respelling("stretched", wordshapes.STRETCHED, wordshapes.stretched)
    yield Respelling("masked", wordshapes.MASKED, wordshapes.masked)
    yield Respelling("signed", wordshapes.SIGNED, wordshapes.signed)
    yield Respelling("emoji inside", wordshapes.EMOJI_INSIDE, wordshapes.emoji_inside)
    yield Respelling(
        "comment lines",
        rb"(?:^|\n)[ \t]*(?://|--|[#;%>]) ?[^\n]*\n[ \t]*(?://|--|[#;%>]) ?[^\s*/#;%>-]",
        respelled.comment_lines,
    )
    yield Respelling("drawn", wordshapes.DRAWN, wordshapes.drawn)
    yield Respelling("tone numbers", TONE_NUMBERS, tone_numbers)
    yield Respelling("glosses", GLOSSES, glosses)
    yield Respelling(
        "string pieces",
        rb"[\"'] {0,2}[+&] {0,2}[\"']|[a-z0-9+/_-]{16}[\"'] ?, ?[\"'][a-z0-9+/_=-]{4}",
        respelled.string_pieces,
    )
    yield Respelling(
        "named pieces",
        rb"[\"'][,;]?\s{0,8}(?:let |const |var )?[\"']?\b(?:[a-hp-z][0-9]?|(?:"
        + names
        + rb")[ -]?[0-9]{1,3})[\"']?\s?[:=]\s?[\"']",
        respelled.named_pieces(data.piece_names),
    )
    yield Respelling(
        "numbered items", rb"[^\s.!?:;]\s*\n\s*[0-9]{1,2}[.)]\s+[a-z\xe4-\xe9]", respelled.numbered_items
    )
    yield Respelling("word signs", wordsigns.SIGNS, wordsigns.word_signs)
    yield Respelling("wrapped", wordsigns.WRAPPED, wordsigns.wrapped)
    yield Respelling("backslashes", wordsigns.BACKSLASHES, wordsigns.backslashes)
    yield Respelling("line ends", wordsigns.ENDS, wordsigns.line_ends)
    yield Respelling("cut words", wordsigns.CUT, wordsigns.cut_words)
    yield Respelling(
        "odd gaps",
        rb"(?:[a-z0-9]\s{0,2}(?:\.\.|\s\.\s|[~^@$]|" + _EMOJI + rb")[^a-z0-9]{0,6}[a-z0-9]+){3}",
        respelled.odd_gaps,
    )
    yield Respelling(
        "chinese gaps",
        rb"(?:(?:" + _CHINESE + rb"){1,3}(?:[\s*_|~+=/\\^-]|\.{2,4}|" + _EMOJI + rb"){1,12}){3}" + _CHINESE,
        respelled.chinese_gaps,
        compact=True,
    )
    yield Respelling(
        "chinese lines",
        _CHINESE + rb"[ \t]{0,4}\n\s{0,4}" + _CHINESE,
        respelled.chinese_lines,
        compact=True,
    )
    yield Respelling(
        "words from the end",
        rb"last word|back ?wards|reversed? (?:word )?order|right to left|from the end",
        respelled.words_from_the_end,
    )
    chinese = msgspec.yaml.decode(read_data("chinese.yaml"), type=_Chinese)
    words = [word for word in vocabulary if not word.isascii()]
    pinyin = Pinyin(chinese.pinyin, chinese.pinyin_around, chinese.readings.split(), words)
    yield Respelling("pinyin", pinyin.indicator, pinyin.read)
    parts = Parts(chinese.parts)
    yield Respelling("parts", parts.indicator, parts.read)
    homophones = Homophones(chinese.sounds, chinese.sound_words)
    yield Respelling("homophones", homophones.indicator, homophones.read)


def ascii85_indicator() -> bytes:
    """What in a text asks for Ascii85 and base85."""
    return _85


def misspelt(vocabulary: Collection[str] = ()) -> Misspelt:
    """The words that are read although they are misspelt; those of ``vocabulary`` only beside one of them."""
    data = msgspec.yaml.decode(read_data("respelling.yaml"), type=_Data)
    return Misspelt(data.misspelt, data.spelt, data.short, data.heard, data.chat, vocabulary)
