"""Further decoders: what is put together from pieces, told apart by marks, or written letter by letter otherwise.

Like those of :mod:`sparkle.llm.safety.decoders`, each finds runs of a view and says how they read; their time is linear
in the text.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from sparkle.llm.safety.decoders import Decoder, readable
from sparkle.llm.safety.views import Run, View

_NUMBERS = re.compile(r"(?<![\d.])\d{1,2}(?:(?:-|[.,]? )\d{1,2}){8,}(?![\d])")
_ALPHABET = "abcdefghijklmnopqrstuvwxyz"
_PIG_WORD = re.compile(r"(?<![a-z])[a-z]{1,20}ay(?![a-z])")
_BASE58 = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
_BASE58_TOKEN = re.compile(r"(?<![A-Za-z0-9+/=_-])[1-9A-HJ-NP-Za-km-z]{24,1200}(?![A-Za-z0-9+/=_-])")
_BASE58_VALUE = {char: value for value, char in enumerate(_BASE58)}
_INLINE = "b|i|u|s|a|q|em|strong|span|font|mark|small|big|sub|sup|code|tt|abbr|cite|kbd|var|ins|del|wbr"
_TAG = re.compile(rf"</?(?:{_INLINE}|br)(?:\s[^<>]{{0,300}})?/?>|<!--[^<>]{{0,300}}-->", re.IGNORECASE)
_ITEM_SEAM = re.compile(
    r"(?<=[^\s\"'])( ?)[\"']\s{0,2}(?::\s{0,2}-?[\w.]{1,9}\s{0,2})?,\s{0,8}[\"']( ?)(?=[^\s\"'])"
)
_JOINED_STRINGS = re.compile(
    r"(\"|')\s{0,3}(?:\+|\.|&|\|\||\\\n)?\s{0,3}\1(?=\S)|(\"|')\s{0,3}[+&]\s{0,3}[\"']"
)
_COMMENT_SEAM = re.compile(
    r"(?<=[^\s*/#;%>-])[ \t]{0,4}\r?\n[ \t]{0,12}(?://|--|[#;%>])[ \t]{0,4}(?=[^\s*/#;%>-])"
)
_BASE64_LIST = re.compile(r"(?<=[A-Za-z0-9+/_-]{16})[\"']\s{0,3},\s{0,3}[\"'](?=[A-Za-z0-9+/_=-]{4})")
_ITEM = re.compile(r"(?<=[^\s.!?:;。！？：；])[ \t]*\n[ \t]*\d{1,2}[.)、][ \t]+(?=[a-z\u4e00-\u9fff])")
_LATIN_GAP = re.compile(
    r"(?<=[a-z0-9])[^\w]*?(?:\.{2,}|\s\.\s|[^\x00-\x7f\w\s]|[~^@$])(?:[^\w]{0,12})(?=[a-z0-9])"
)
_CHINESE_GAP = re.compile(
    "(?<=[\u4e00-\u9fff])(?:[^\\w,.!?;:]|\\.{2,}){1,16}(?=[\u4e00-\u9fff])|(?<=[\u4e00-\u9fff])_{1,4}(?=[\u4e00-\u9fff])"
)
_CHINESE_LINE = re.compile("(?<=[\u4e00-\u9fff])[ \\t]{0,4}\\n\\s{0,4}(?=[\u4e00-\u9fff])")
_BIDI = re.compile("[\u202e\u2067\u202b]([^\u202a-\u202e\u2066-\u2069]{2,})[\u202c\u2069]")
_OVERRIDE = "\u202e"
_WORDS = re.compile(r"\S+")
_MOST_WORDS = 4_000


def letter_numbers(view: View) -> Iterator[Run]:
    """Letters as their places in the alphabet: ``9-7-14-15-18-5``; blanks between words."""
    for match in _NUMBERS.finditer(view.text):
        joined = "-" in match.group()
        words = re.split(r"[., ]+", match.group()) if joined else [match.group()]
        values = [[int(n) for n in re.findall(r"\d+", word)] for word in words]
        if all(1 <= n <= 26 for word in values for n in word):
            yield (
                match.start(),
                match.end(),
                " ".join("".join(_ALPHABET[n - 1] for n in word) for word in values),
            )


def pig_latin(words: Collection[str], onsets: Collection[str]) -> Decoder:
    """``ignoreay allay eviouspray``; ``words`` tell how many letters moved, else ``onsets``, which begin words."""
    known, begin = frozenset(words), frozenset(onsets)

    def decode(view: View) -> Iterator[Run]:
        for match in _PIG_WORD.finditer(view.text):
            stem = match.group()[:-2]
            if not stem or (stem[-1] in "wy" and stem[:-1] in known):
                stem = stem[:-1] or stem
            moves = range(min(4, len(stem) - 1) + 1)
            turns = [stem[len(stem) - moved :] + stem[: len(stem) - moved] for moved in moves]
            best = next((turn for turn in turns if turn in known), None)
            usual = [
                turn for moved, turn in zip(moves, turns, strict=True) if moved and turn[:moved] in begin
            ]
            yield match.start(), match.end(), best or (usual or turns)[-1 if usual else 0]

    return decode


def base58(view: View) -> Iterator[Run]:
    """Base58, as addresses of currencies are written; at most 1,200 characters a run, for its time grows faster."""
    for match in _BASE58_TOKEN.finditer(view.source):
        number = 0
        for char in match.group():
            number = number * 58 + _BASE58_VALUE[char]
        try:
            text = number.to_bytes((number.bit_length() + 7) // 8, "big").decode()
        except UnicodeDecodeError:
            continue
        if readable(text):
            yield match.start(), match.end(), text


def inline_tags(view: View) -> Iterator[Run]:
    """HTML tags and comments that stand within a line of text, taken out; a blank for what breaks the line."""
    for match in _TAG.finditer(view.source):
        tag = match.group()
        apart = tag[:3].lower() == "<br" or (tag[1] == "!" and any(map(str.isalnum, tag)))
        yield match.start(), match.end(), _blank(view.source, match) if apart else ""


def items(view: View) -> Iterator[Run]:
    """Strings of a list, or keys of an object, one after the other: ``["all", "previous"]``."""
    seams = list(_ITEM_SEAM.finditer(view.source))
    # Pieces that bring blanks of their own were cut wherever it came.
    cut = any(seam.group(1) or seam.group(2) for seam in seams)
    for seam in seams:
        yield seam.start(), seam.end(), seam.group(1) or seam.group(2) if cut else _blank(view.source, seam)


def comment_lines(view: View) -> Iterator[Run]:
    """A sentence that runs over several lines of comment or quotation."""
    for match in _COMMENT_SEAM.finditer(view.source):
        yield match.start(), match.end(), _blank(view.source, match)


def string_pieces(view: View) -> Iterator[Run]:
    """String constants put together by the reader: ``"ign" + "ore"``; also a list of pieces of Base64."""
    found = sorted(
        {
            match.span()
            for pattern in (_JOINED_STRINGS, _BASE64_LIST)
            for match in pattern.finditer(view.source)
        }
    )
    last = 0
    for start, end in found:
        if start >= last:
            yield start, end, ""
            last = end


def named_pieces(names: Collection[str]) -> Decoder:
    """Strings under names that only count: ``a = "ignore"``, ``"part2": "all rules"``; between them a blank."""
    longer = "|".join(sorted(names, key=len, reverse=True))
    name = rf"(?:[a-hp-z]\d?|(?:{longer})[ _-]?\d{{1,3}})"
    between = re.compile(
        rf"\s{{0,2}}[\"']\s{{0,4}}[,;]?\s{{0,8}}(?:let |const |var )?[\"']?{name}[\"']?\s{{0,3}}[:=]\s{{0,3}}[\"']",
        re.IGNORECASE,
    )

    def decode(view: View) -> Iterator[Run]:
        for match in between.finditer(view.source):
            yield match.start(), match.end(), _blank(view.source, match)

    return decode


def numbered_items(view: View) -> Iterator[Run]:
    """A sentence that runs over the items of a numbered list: marks taken out where an item begins in its middle."""
    for match in _ITEM.finditer(view.source):
        yield match.start(), match.end(), _blank(view.source, match)


def _blank(text: str, match: re.Match[str]) -> str:
    """What stands between the words beside a mark that is taken out: nothing in Chinese."""
    last, first = text[match.start() - 1 : match.start()], text[match.end() : match.end() + 1]
    return "" if "\u4e00" <= last <= "\u9fff" and "\u4e00" <= first <= "\u9fff" else " "


def odd_gaps(view: View) -> Iterator[Run]:
    """Dots, emoji and rare signs between words, as blanks."""
    for match in _LATIN_GAP.finditer(view.text):
        yield match.start(), match.end(), " "


def chinese_gaps(view: View) -> Iterator[Run]:
    """Blanks and signs between Chinese characters, taken out; punctuation that ends a clause stays."""
    for match in _CHINESE_GAP.finditer(view.text):
        yield match.start(), match.end(), ""


def chinese_lines(view: View) -> Iterator[Run]:
    """A Chinese sentence that runs over lines, or over turns of a conversation, in one line."""
    for match in _CHINESE_LINE.finditer(view.source):
        yield match.start(), match.end(), ""


def bidi(view: View) -> Iterator[Run]:
    """Text that a directional override shows in the opposite order."""
    for match in _BIDI.finditer(view.source):
        if match.group()[0] == _OVERRIDE:
            yield match.start(), match.end(), match.group(1)[::-1] + " "


def words_from_the_end(view: View) -> Iterator[Run]:
    """The words in the opposite order, each in the place of the one that it changes with."""
    words = [match.span() for match in _WORDS.finditer(view.source)]
    if len(words) > _MOST_WORDS:
        return
    for (start, end), (other, stop) in zip(words, reversed(words), strict=True):
        yield start, end, view.source[other:stop]
