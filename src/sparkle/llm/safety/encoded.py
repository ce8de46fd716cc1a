"""Hexadecimal, base32 and base64: in one run, over lines, in groups, word by word, backwards.

What does not decode to readable text is left alone, so an identifier or a picture costs a few attempts on its first
characters and nothing else. All patterns are linear: no two neighbouring repetitions match the same character.
"""

from __future__ import annotations

import base64
import binascii
import codecs
import re
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence

from sparkle.llm.safety.decoders import MAX_RUN, decoded_text
from sparkle.llm.safety.segmenting import english_words
from sparkle.llm.safety.views import Run, View

_LONG_ENOUGH_TO_SHIFT = 24
"""Letters before a base64 run that belong to no encoding are tried to be left out from this length on."""
_HEAD = 120
"""Characters of a long run by which an attempt is judged; a multiple of 2, 4 and 8."""

_BASE32 = frozenset("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_BASE32_SMALL = frozenset(map(str.lower, _BASE32))
_BASE32_HEX = frozenset("0123456789ABCDEFGHIJKLMNOPQRSTUV")
_HEX = frozenset("0123456789abcdefABCDEF")
_DIGITS = frozenset("0123456789")
_TO_BASE32 = str.maketrans("0123456789ABCDEFGHIJKLMNOPQRSTUV", "ABCDEFGHIJKLMNOPQRSTUVWXYZ234567")
_RUN = re.compile(r"={0,2}[A-Za-z0-9+/_-]{16,}(?:\r?\n[A-Za-z0-9+/_-]{4,})*(?:={1,6})?")
_GROUPS = re.compile(
    r"(?<![A-Za-z0-9+/=_])[A-Za-z0-9+/_]{2,76}={0,6}(?:[\s,;:|.-]{1,3}[A-Za-z0-9+/_]{1,76}={0,6}){3,}"
)
_GROUP = re.compile(r"[A-Za-z0-9+/_]+=*")
_WORD_CODE = re.compile(
    r"(?<![A-Za-z0-9+/=_%&#;\\-])(?=[A-Za-z0-9+/])(?:[A-Za-z0-9+/]{4}){0,8}(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?(?![A-Za-z0-9+/=_])"
)
_HEX_WORD = re.compile(r"(?<![A-Za-z0-9+/=_%&#\\-])(?:0[xX])?(?:[0-9A-Fa-f]{2}){2,40}(?![A-Za-z0-9+/=_])")
_FEWEST_GROUPS = 4
_SHORT_CODE = 4
"""Characters of base64 that many a word happens to be: three letters come of it, too."""
_FEWEST_LETTER_GROUPS = 8

_LENGTHS = "|".join(
    rf"(?:\b[a-z0-9+/]{{{size}}}[\s,;:|.-]{{1,3}}){{{times}}}"
    for size, times in ((3, 8), (4, 6), *((size, 5) for size in range(5, 9)), *((size, 4) for size in range(9, 17)),
                        (20, 4), (24, 4), (30, 4), (32, 3), (40, 3))
)  # fmt: skip
GROUPS = (
    rf"{_LENGTHS}|[a-z0-9+/]{{6,}}={{1,2}}(?:[\s,.;:!?\"']|$)|(?:\b[2-7][0-9a-f](?:[0-9a-f]{{2}}){{1,40}}[\s,;]{{1,3}}){{3}}"
    r"|\b(?:0x)?(?:[2-7][0-9a-f]){5,}\b"
).encode()
"""Asks for groups and words: groups of one length in a row, padding, words in hexadecimal."""

Attempt = Callable[[str], bytes]


def _unhex(token: str) -> bytes:
    return bytes.fromhex(token)


def _unbase32(token: str) -> bytes:
    bare = token.rstrip("=")
    return base64.b32decode(bare + "=" * (-len(bare) % 8), casefold=True)


def _unbase32_hex(token: str) -> bytes:
    return _unbase32(token.rstrip("=").upper().translate(_TO_BASE32))


def _unbase64(token: str) -> bytes:
    bare = token.rstrip("=").translate({ord("-"): "+", ord("_"): "/"})
    if len(bare) % 4 == 1:
        bare = bare[:-1]
    return binascii.a2b_base64(bare + "=" * (-len(bare) % 4))


def _backwards(token: str) -> bytes:
    return _unbase64(token[::-1].rstrip("="))


def _rotated(token: str) -> bytes:
    return _unbase64(codecs.encode(token, "rot13"))


def _from(start: int) -> Attempt:
    return lambda token: _unbase64(token[start:])


_SHIFTED = tuple(map(_from, (1, 2, 3)))


def _attempts(token: str) -> Iterator[tuple[Attempt, str]]:
    """The ways to decode a token, the likelier first, each with what it decodes."""
    bare = token.rstrip("=")
    signs = frozenset(bare)
    if signs <= _HEX and len(token) % 2 == 0:
        yield _unhex, token
    elif bare[:2] in ("0x", "0X"):
        if bare.count(bare[:2]) * 4 == len(bare):
            bare = bare.replace(bare[:2], "")
        bare = bare.removeprefix("0x").removeprefix("0X")
        if _HEX.issuperset(bare) and len(bare) % 2 == 0:
            yield _unhex, bare
    if signs <= _BASE32 or (signs <= _BASE32_SMALL and signs & _DIGITS):
        yield _unbase32, token
    if signs & _DIGITS and (signs <= _BASE32_HEX or frozenset(map(str.upper, signs)) <= _BASE32_HEX):
        yield _unbase32_hex, token
    yield _unbase64, token
    if len(token) >= _LONG_ENOUGH_TO_SHIFT:
        if not (bare.islower() or bare.isupper()):  # as the parts of addresses and names mostly are
            yield _backwards, token
            yield _rotated, token
        for attempt in _SHIFTED:
            yield attempt, token


def _decode(token: str) -> str | None:
    """What a run of one piece says, or ``None``."""
    for attempt, code in _attempts(token):
        if attempt in (_backwards, _rotated) and len(code) > 2 * _HEAD:
            # The unlikelier ways are only tried in earnest where a piece of the run reads well.
            piece = code[-(len(code) % 4) - _HEAD :] if attempt is _backwards else code[:_HEAD]
            if _try(attempt, piece) is None:
                continue
        text = _try(attempt, code)
        if text is not None:
            return text
    return None


def _try(attempt: Attempt, code: str) -> str | None:
    try:
        return decoded_text(attempt(code), sure=True)
    except ValueError:
        return None


def encoded_runs(view: View) -> Iterator[Run]:
    """Hexadecimal, base32 and base64 runs of at least 16 characters, also over several lines."""
    for match in _RUN.finditer(view.source):
        if match.end() - match.start() > MAX_RUN:
            continue
        whole = match.group().lstrip("=")  # what a sign before it assigns, or padding read from the end
        start = match.end() - len(whole)
        lines = whole.split("\n")
        text = _decode("".join(whole.split()))
        if text is not None:
            yield start, match.end(), text
        elif len(lines) > 1:
            yield from _lines(start, lines)


def _lines(start: int, lines: Sequence[str]) -> Iterator[Run]:
    """Lines of which some are words that only look like the code: as many as have one length, or each for itself."""
    same = 1
    while same < len(lines) and len(lines[same].rstrip("\r")) == len(lines[0].rstrip("\r")):
        same += 1
    end = start + sum(map(len, lines[:same])) + same - 1
    text = _decode("".join("".join(lines[:same]).split())) if same < len(lines) else None
    if text is not None:
        yield start, end, text
        return
    for line in lines:
        text = _decode(line.strip()) if len(line) >= 16 else None
        if text is not None:
            yield start, start + len(line), text
        start += len(line) + 1


def grouped(view: View) -> Iterator[Run]:
    """Codes set apart in groups of one length, and words that are encoded one by one."""
    found: list[Run] = []
    for match in _GROUPS.finditer(view.source):
        groups = [
            (match.start() + g.start(), match.start() + g.end()) for g in _GROUP.finditer(match.group())
        ]
        at = 0
        while at < len(groups):
            last = at + 1
            size = groups[at][1] - groups[at][0]
            while last < len(groups) and groups[last][1] - groups[last][0] == size:
                last += 1
            if last - at >= _FEWEST_GROUPS - 1:
                # What is left over makes a shorter group, or a longer one where it is padded.
                for stop in (min(last + 1, len(groups)), last):
                    text = _joined(view.source, groups[at:stop], size)
                    if text is not None:
                        found.append((groups[at][0], groups[stop - 1][1], text))
                        last = stop
                        break
            at = last
    starts = [run[0] for run in found]
    words = [run for run in _words(view.source) if not _met(run, found, starts)]
    yield from sorted([*found, *words])


def _met(run: Run, found: Sequence[Run], starts: Sequence[int]) -> bool:
    """Whether a run overlaps one of those found, which follow each other and begin at ``starts``."""
    before = bisect_left(starts, run[1])
    return before > 0 and found[before - 1][1] > run[0]


def _joined(source: str, groups: Sequence[tuple[int, int]], size: int) -> str | None:
    token = "".join(source[start:end] for start, end in groups)
    # Padding before the end: each group is a code of its own.
    if len(groups) < _FEWEST_GROUPS or len(token) < 16 or "=" in token[: -size - 1]:
        return None
    text = _decode(token)
    if (
        text is None
        and size < 7
        and len(groups) >= _FEWEST_LETTER_GROUPS
        and token.isalpha()
        and token.isascii()
    ):
        known = english_words()
        words = sum(source[start:end].lower() in known for start, end in groups)
        # A text cut anew: what it says is told by where its words end.
        return token if words * 2 < len(groups) else None
    return text


def _words(source: str) -> Iterator[Run]:
    known = english_words()
    doubtful: list[Run] = []
    sure = 0
    for pattern, decode in ((_HEX_WORD, _hex_word), (_WORD_CODE, _base64_word)):
        for match in pattern.finditer(source):
            code = match.group()
            text = decode(code)
            if text is None:
                continue
            bare = text.strip(" .,!?:;'\"()\n").lower()
            if bare.isascii() and bare not in known and len(code) < 12:
                continue
            sure += len(code) > _SHORT_CODE
            doubtful.append((*match.span(), text))
    doubtful.sort()
    last = 0
    for start, end, text in doubtful if sure else ():
        if start >= last:
            yield start, end, text
            last = end


def _hex_word(code: str) -> str | None:
    return _word(bytes.fromhex(code.removeprefix("0x").removeprefix("0X")))


def _base64_word(code: str) -> str | None:
    if code in english_words() or code.islower():
        return None
    return _word(binascii.a2b_base64(code))


def _word(raw: bytes) -> str | None:
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        return None
    letters = sum(char.isalpha() or char in " .,!?:;'-" for char in text)
    return text if letters == len(text) and any(map(str.isalpha, text)) else None
