"""Decoders of the encodings in which instructions are hidden.

Each function finds the encoded runs of a view and says what they decode to. A run that decodes to something other
than readable text is left alone. All regular expressions here run on Python's engine and are written so that no two
neighbouring repetitions can match the same character: their time is linear in the text.
"""

from __future__ import annotations

import base64
import binascii
import html
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from urllib.parse import unquote_to_bytes

from sparkle.llm.safety.views import Run, View

Decoder = Callable[[View], Iterator[Run]]

MIN_DECODED = 5
"""Fewest characters of a decoded run that can say anything."""

MAX_RUN = 1_000_000
"""Longest encoded run that is decoded, in code points."""

_ENCODED = re.compile(r"[A-Za-z0-9+/_-]{16,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*(?:={1,6})?")
_HEX_PAIRS = re.compile(
    r"(?<![0-9A-Za-z])(?:0x|\\x)?[0-9A-Fa-f]{2}(?:[\s,:;|-]{1,3}(?:0x|\\x)?[0-9A-Fa-f]{2}){5,}(?![0-9A-Fa-f])"
)
_BINARY = re.compile(r"[01]{8}(?:[\s,]{1,2}[01]{8}){4,}|(?:[01]{8}){5,}")
_DECIMAL = re.compile(r"\d{2,3}(?:[\s,;]{1,2}\d{2,3}){7,}")
_PERCENT = re.compile(r"(?:%[0-9A-Fa-f]{2})+")
_QUOTED = re.compile(r"(?:=[0-9A-Fa-f]{2}|=\r?\n)+")
_ENTITY = re.compile(r"&(?:#[0-9]{1,7}|#[xX][0-9A-Fa-f]{1,6}|[A-Za-z][A-Za-z0-9]{1,30});?")
_ESCAPE = re.compile(
    r"(?:(?:\\|%)u[0-9A-Fa-f]{4}|\\u\{[0-9A-Fa-f]{1,6}\}|[Uu]\+[0-9A-Fa-f]{4,5}(?: (?=[Uu]\+))?"
    r"|(?:\\x[0-9A-Fa-f]{2})+|(?:\\[0-7]{3})+)"
)
_JSON_ESCAPE = re.compile(r"\\[nrtbf\"/\\]")
_ASCII85 = re.compile(r"<~([!-}\s]{5,})~>|(?:^|(?<=\s))([!-~]{15,}(?:\r?\n[!-~]+)*)(?=\s|$)")
_MIN_85 = 5
_NAMED_85 = re.compile(r"[\w-]{1,40}[:=]")
_AROUND_85 = "\"'`()[]{},."
_UTF16 = re.compile(rb"[\x20-\x7e\n]\x00|[\x00-\xff][\x4e-\x9f]|[\x00-\x3f]\x30|[\x00-\x5f]\xff", re.DOTALL)
_UTF16_BACK = re.compile(
    rb"\x00[\x20-\x7e\n]|[\x4e-\x9f][\x00-\xff]|\x30[\x00-\x3f]|\xff[\x00-\x5f]", re.DOTALL
)
_ORDERS = (("utf-16-le", _UTF16), ("utf-16-be", _UTF16_BACK))
_MIN_UTF16 = 8
_UTF16_HEAD = 64
"""Pairs of bytes by which it is told whether they are worth looking at all."""
_PRINTABLE = re.compile(rb"[\x20-\x7e\r\n\t]+")
_MIN_PRINTABLE = 12
_MORSE = re.compile(r"[.-]{1,6}(?:[ /|]{1,3}[.-]{1,6}){7,}")
_TAGS = re.compile("[\U000e0020-\U000e007e]+")
_SELECTORS = re.compile("[\ufe00-\ufe0f\U000e0100-\U000e01ef]{4,}")
_SIMPLE = {"n": "\n", "r": "\n", "t": " ", "b": " ", "f": " "}


def readable(text: str) -> bool:
    """Whether a decoded text is text: printable, mostly letters and blanks."""
    if len(text) < MIN_DECODED:
        return False
    odd = sum(1 for c in text if not c.isprintable() and c not in "\n\r\t")
    if odd * 20 > len(text):
        return False
    letters = sum(1 for c in text if c.isalpha() or c == " ")
    return letters * 10 >= len(text) * 6 or _ENCODED.fullmatch(text) is not None


_MARKS = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}


def _likely(pairs: Sequence[bytes], order: re.Pattern[bytes]) -> bool:
    return sum(1 for pair in pairs if order.fullmatch(pair)) * 10 >= len(pairs) * 9


def decoded_text(raw: bytes, *, sure: bool = False) -> str | None:
    """``raw`` as readable text in UTF-8 or UTF-16, or ``None``.

    Args:
        raw: the bytes.
        sure: bytes that happen to be printable are no accident, so that signs may outnumber letters: a code within a
            code.
    """
    marked = _MARKS.get(raw[:2])
    if marked is not None:
        text = raw[2:].decode(marked, "replace")
        return text if readable(text) else None
    if sure and len(raw) >= _MIN_PRINTABLE and _PRINTABLE.fullmatch(raw):
        return raw.decode()
    text = raw.decode("utf-8", "replace")
    # A stray byte at the edge of a run ("... a4" before a word like "be") must not save what the rest says.
    inner = text.strip("\ufffd")
    if len(text) - len(inner) <= 4:
        text = inner
    stray = text.count("\ufffd")
    if stray > 2 or stray * 20 > len(text) or text.count("\0") * 4 > len(text):
        # Almost any bytes are some UTF-16, so only what looks like English or Chinese counts.
        pairs = [raw[at : at + 2] for at in range(0, len(raw) - 1, 2)]
        head = pairs[:_UTF16_HEAD]
        encoding = next((name for name, order in _ORDERS if _likely(head, order)), None)
        if len(pairs) < _MIN_UTF16 or encoding is None or not _likely(pairs, dict(_ORDERS)[encoding]):
            return None
        text = raw.decode(encoding, "replace")
    return text if readable(text) else None


def _number_runs(pattern: re.Pattern[str], digits: re.Pattern[str], base: int) -> Decoder:
    def decode(view: View) -> Iterator[Run]:
        for match in pattern.finditer(view.source):
            values = [int(number, base) for number in digits.findall(match.group())]
            if max(values) < 256 and (text := decoded_text(bytes(values))) is not None:
                yield match.start(), match.end(), text

    return decode


hex_pairs = _number_runs(_HEX_PAIRS, re.compile(r"[0-9A-Fa-f]{2}(?![xX])"), 16)
"""Hexadecimal bytes set apart: ``49 67 6e``, ``0x49, 0x67``, ``49:67``."""
binary = _number_runs(_BINARY, re.compile(r"[01]{8}"), 2)
"""Bytes in binary."""
decimal = _number_runs(_DECIMAL, re.compile(r"\d{2,3}"), 10)
"""Character codes in decimal."""


def _percent_like(pattern: re.Pattern[str], sign: str) -> Decoder:
    def decode(view: View) -> Iterator[Run]:
        for match in pattern.finditer(view.source):
            # A sign before a line's end is where quoted-printable folds lines.
            raw = unquote_to_bytes(
                "".join(match.group().split(f"{sign}\n")).replace(sign, "%").replace("%\r\n", "")
            )
            try:
                yield match.start(), match.end(), raw.decode()
            except UnicodeDecodeError:
                continue

    return decode


percent = _percent_like(_PERCENT, "%")
"""URL encoding."""
quoted_printable = _percent_like(_QUOTED, "=")
"""Quoted-printable, as in mail."""


def entities(view: View) -> Iterator[Run]:
    """HTML character references, named and numbered, with or without the semicolon."""
    for match in _ENTITY.finditer(view.source):
        text = html.unescape(match.group())
        if text != match.group() and "\ufffd" not in text:
            yield match.start(), match.end(), text


def escapes(view: View) -> Iterator[Run]:
    r"""Escaped characters of programming languages: ``\u5ffd``, ``\x69``, ``\151``, ``U+5FFD``, ``%u5ffd``."""
    for match in _ESCAPE.finditer(view.source):
        token = match.group()
        if token[1] in "x01234567":
            yield from _byte_escapes(token, match.start())
            continue
        code = int(token[2:].strip("{} "), 16)
        if code < 0xD800 or 0xE000 <= code <= 0x10FFFF:
            yield match.start(), match.end(), chr(code)


def _byte_escapes(token: str, start: int) -> Iterator[Run]:
    """A row of escaped bytes: as UTF-8 where it is some, else each byte as the character of its number."""
    codes = [int(code.removeprefix("x"), 16 if code[0] == "x" else 8) for code in token.split("\\")[1:]]
    if max(codes) > 0x7F:
        try:
            yield start, start + len(token), bytes(code & 0xFF for code in codes).decode()
        except UnicodeDecodeError:
            pass
        else:
            return
    for index, code in enumerate(codes):
        yield start + 4 * index, start + 4 * index + 4, chr(code)


def json_escapes(view: View) -> Iterator[Run]:
    r"""``\n``, ``\"`` and their like in JSON text; elsewhere a backslash is more likely part of a formula."""
    for match in _JSON_ESCAPE.finditer(view.source):
        sign = match.group()[1]
        yield match.start(), match.end(), _SIMPLE.get(sign, sign)


def ascii85(view: View) -> Iterator[Run]:
    """Ascii85 and base85, in Adobe's brackets or as a long run of letters and signs without a blank."""
    for match in _ASCII85.finditer(view.source):
        whole = match.group(1) or match.group(2)
        token = "".join(whole.split())
        # As it is, then without a name before it and quotation marks around it.
        bare = _NAMED_85.sub("", token, count=1) if _NAMED_85.match(token) else token
        bare = bare.strip(_AROUND_85)
        tries = dict.fromkeys((token, bare, bare.rpartition(";")[0], whole.split(maxsplit=1)[0]))
        text = next((said for one in tries if len(one) >= _MIN_85 and (said := _unbase85(one))), None)
        if text is not None:
            yield match.start(), match.end(), text


def _unbase85(token: str) -> str | None:
    for attempt in (base64.a85decode, base64.b85decode):
        try:
            text = decoded_text(attempt(token))
        except (ValueError, binascii.Error):
            continue
        if text is not None:
            return text
    return None


def morse(codes: Mapping[str, str]) -> Decoder:
    """Morse code; ``codes`` maps a letter to its signs."""
    letters = {signs: letter for letter, signs in codes.items()}

    def decode(view: View) -> Iterator[Run]:
        for match in _MORSE.finditer(view.text):
            words = re.split(r" *[/|] *| {3}", match.group())
            text = " ".join("".join(letters.get(signs, "?") for signs in word.split()) for word in words)
            if text.count("?") * 10 <= len(text):
                yield match.start(), match.end(), text

    return decode


def spelling(words: tuple[str, ...]) -> Decoder:
    """Words of the radio spelling alphabet read as their first letters."""
    word = "(?:" + "|".join(words) + ")"
    pattern = re.compile(rf"\b{word}(?:[\s,.-]{{1,2}}{word}){{4,}}\b")
    first = re.compile(word)

    def decode(view: View) -> Iterator[Run]:
        for match in pattern.finditer(view.text):
            yield match.start(), match.end(), "".join(found[0] for found in first.findall(match.group()))

    return decode


def tags(view: View) -> Iterator[Run]:
    """Text in tag characters, which no reader sees and every model reads."""
    for match in _TAGS.finditer(view.source):
        yield match.start(), match.end(), "".join(chr(ord(c) - 0xE0000) for c in match.group())


def selectors(view: View) -> Iterator[Run]:
    """Bytes in variation selectors behind an ordinary character."""
    for match in _SELECTORS.finditer(view.source):
        raw = bytes(ord(c) - 0xFE00 if ord(c) < 0xFE10 else ord(c) - 0xE0100 + 16 for c in match.group())
        text = decoded_text(raw)
        if text is not None:
            yield match.start(), match.end(), text
