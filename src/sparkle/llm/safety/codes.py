r"""Characters by their numbers as programs and tools write them: ``chr(73)+chr(103)``, hexdumps, uuencode, ``\0049``.

Each decoder finds runs of a view and says what they read; their time is linear in the text.
"""

from __future__ import annotations

import binascii
import re
from collections.abc import Iterator

from sparkle.llm.safety.decoders import decoded_text
from sparkle.llm.safety.views import Run, View

_MOST_PUNYCODE = 400
"""Letters of a name in Punycode that are read: decoding inserts one after the other."""
_CODE_POINTS = re.compile(r"(?<![\d.])\d{2,6}(?:[\s,;]{1,2}\d{2,6}){4,}(?![\d.]\d)")
_DIGITS = re.compile(r"\d+")
_USUAL = re.compile(r"[\x20-\x7e\n\u3000-\u303f\u4e00-\u9fa5\uff00-\uff5e]")
_CALL = r"(?:chrw?|char|unichr|fromcharcode|fromcodepoint)\s?\(\s?(0x[0-9a-f]{1,5}|\d{1,6})\s?\)"
_CALLED = re.compile(_CALL, re.IGNORECASE)
_BETWEEN = re.compile(r"[\s+.,&|~]{1,6}")
_DUMP_LINE = re.compile(
    r"^[ \t]{0,4}(?:0x)?[0-9A-Fa-f]{4,8}:?[ \t]{1,3}((?:[0-9A-Fa-f]{2,4}(?:[ \t]{1,2}|$)){1,17}).*$",
    re.MULTILINE,
)
_DUMP_BYTES = 16
_UU = re.compile(r"begin [0-7]{3,4} [^\n]{1,80}\r?\n((?:[!-`][ -`]{0,62}\r?\n)+)(?:`|end| )")
_PUNYCODE = re.compile(
    rf"(?<![a-z0-9-])xn--([a-z0-9 ,.!?:;-]{{1,{_MOST_PUNYCODE}}}-)?([a-z0-9]{{4,{_MOST_PUNYCODE}}})",
    re.IGNORECASE,
)
_CSS = re.compile(r"(?:\\[0-9A-Fa-f]{4,6} ?){4,}|(?:\\U[0-9A-Fa-f]{8}){2,}")
_CSS_ONE = re.compile(r"[0-9A-Fa-f]{4,8}")
_SUFFIXED = re.compile(r"(?<![0-9A-Za-z])(?:[0-9A-Fa-f]{2}h[\s,;]{0,3}){5,}")
_OCTAL = re.compile(r"(?<![0-9.])0?[0-3]?[0-7]{2}(?:[\s,;]{1,2}0?[0-3]?[0-7]{2}){7,}(?![0-9.])")
_SMALL_BINARY = re.compile(r"(?<![01])(?:0b)?[01]{6,8}(?:[\s,]{1,2}(?:0b)?[01]{6,8}){4,}(?![01])")

INDICATORS = {
    "code points": rb"(?:[0-9]{5}[\s,;]{1,2}(?:[0-9]{2,5}[\s,;]{1,2}){0,2}){3}",
    "octal": rb"(?:\b0?[01][0-7]{2}[\s,;]{1,2}){6}",
    "seven bits": rb"\b(?:0b)?[01]{6,8}[\s,]{1,2}(?:0b)?[01]{6,8}[\s,]{1,2}(?:0b)?[01]{6,8}",
    "calls": rb"(?:chrw?|char|fromcharcode|fromcodepoint|unichr)\s?\(\s?(?:0x)?[0-9]",
    "dump": rb"[0-9a-f]{4,8}:?[ \t]{1,3}(?:[0-9a-f]{2,4}[ \t]{1,2}){7}",
    "uuencode": rb"begin [0-7]{3,4} ",
    "punycode": rb"xn--",
    "long escapes": rb"(?:\\[0-9a-f]{4,6} ?){4}|(?:\\u[0-9a-f]{8}){2}",
    "suffixed": rb"(?:\b[0-9a-f]{2}h[\s,;]{0,3}){5}",
}
"""Name of a reading to what asks for it, over the folded text's bytes."""


def _usual(text: str) -> bool:
    """Whether nearly all characters are such as English and Chinese are written with."""
    return len(_USUAL.findall(text)) * 10 >= len(text) * 9


def code_points(view: View) -> Iterator[Run]:
    """Chinese by the decimal numbers of its characters: ``24573 30053``."""
    for match in _CODE_POINTS.finditer(view.source):
        codes = [int(number) for number in _DIGITS.findall(match.group())]
        if max(codes) > 0xFFFF or any(0xD800 <= code < 0xE000 for code in codes):
            continue
        text = "".join(map(chr, codes))
        if _usual(text):
            yield match.start(), match.end(), text


def octal(view: View) -> Iterator[Run]:
    """Bytes in octal: ``111 147 156``."""
    yield from _bytes(view, _OCTAL, 8)


def seven_bits(view: View) -> Iterator[Run]:
    """Characters in binary without leading zeros: ``1001001 1100111``."""
    yield from _bytes(view, _SMALL_BINARY, 2)


def suffixed(view: View) -> Iterator[Run]:
    """Bytes as assemblers write them: ``49h 67h``."""
    for match in _SUFFIXED.finditer(view.source):
        text = decoded_text(bytes.fromhex(re.sub(r"h[\s,;]{0,3}", "", match.group())))
        if text is not None:
            yield match.start(), match.end(), text + " "


def _bytes(view: View, pattern: re.Pattern[str], base: int) -> Iterator[Run]:
    for match in pattern.finditer(view.source):
        values = [int(number.removeprefix("0b"), base) for number in re.split(r"[\s,;]+", match.group())]
        text = decoded_text(bytes(values)) if max(values) < 256 else None
        if text is not None:
            yield match.start(), match.end(), text


def calls(view: View) -> Iterator[Run]:
    """Calls that make a character of a number, and what puts them together: ``chr(73) + chr(103)``."""
    last = -1
    for match in _CALLED.finditer(view.source):
        start, number = match.start(), match.group(1).lower()
        code = int(number, 16 if number.startswith("0x") else 10)
        if code > 0x10FFFF or 0xD800 <= code < 0xE000:
            continue
        if last >= 0 and start - last <= 6 and _BETWEEN.fullmatch(view.source, last, start):
            start = last
        yield start, match.end(), chr(code)
        last = match.end()


def dump(view: View) -> Iterator[Run]:
    """Hexdumps, without the offsets before and the characters behind."""
    lines = list(_DUMP_LINE.finditer(view.source))
    first = 0
    while first < len(lines):
        last = first + 1
        while last < len(lines) and lines[last].start() - lines[last - 1].end() <= 2:
            last += 1
        digits = "".join("".join(line.group(1).split())[: 2 * _DUMP_BYTES] for line in lines[first:last])
        text = decoded_text(bytes.fromhex(digits)) if len(digits) % 2 == 0 else None
        if text is not None:
            yield lines[first].start(), lines[last - 1].end(), text
        first = last


def uuencoded(view: View) -> Iterator[Run]:
    """Uuencode, as old mail carries files."""
    for match in _UU.finditer(view.source):
        try:
            raw = b"".join(binascii.a2b_uu(line) for line in match.group(1).splitlines())
        except ValueError:
            continue
        text = decoded_text(raw)
        if text is not None:
            yield match.start(), match.end(), text


def punycode(view: View) -> Iterator[Run]:
    """Names of domains in Punycode, which may as well be a sentence."""
    for match in _PUNYCODE.finditer(view.source):
        try:
            text = match.group()[4:].encode("ascii").decode("punycode")
        except UnicodeError:
            continue
        if _usual(text):
            yield match.start(), match.end(), text


def long_escapes(view: View) -> Iterator[Run]:
    r"""Escapes of style sheets and of long code points: ``\0049 \0067``, ``\U00000049``."""
    for match in _CSS.finditer(view.source):
        codes = [int(code, 16) for code in _CSS_ONE.findall(match.group())]
        if all(code < 0xD800 or 0xE000 <= code <= 0x10FFFF for code in codes):
            text = "".join(map(chr, codes))
            if _usual(text):
                yield match.start(), match.end(), text


DECODERS = {
    "code points": code_points,
    "octal": octal,
    "seven bits": seven_bits,
    "calls": calls,
    "dump": dump,
    "uuencode": uuencoded,
    "punycode": punycode,
    "long escapes": long_escapes,
    "suffixed": suffixed,
}
"""The decoders by the names of :data:`INDICATORS`."""
