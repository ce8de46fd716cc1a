"""Signs where blanks should be, and words cut in two: ``ignore_all_previous``, ``**all** **of**``, ``in-struc-tions``.

People write so, too: file names, emphasis, text taken from a page set in columns. It hides little from the rules, which
take signs for blanks, and much from everything that reads words.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import chain

from sparkle.llm.safety.segmenting import english_words
from sparkle.llm.safety.views import Run, View

SIGNS = (
    rb"(?:[a-z]+[_-]){4}[a-z]|[a-z.,]\*\*\s\*\*[^\s*]+\*\*\s\*\*|[a-z]\*\*[a-z]+\*\*\s[a-z]+\*\*[a-z]"
    rb"|(?:[a-z]+[#;>:=^\\/|~+*&,]{1,2}){5}[a-z]"
)
"""Five words with signs between them, or three in a row emphasised one by one or from their middle."""

WRAPPED = rb"(?:[(\[\"'`][a-z.,!?']+[)\]\"'`](?:\([^()\s]*\))?\s){4}"
"""Words in brackets or quotation marks, one by one."""

BACKSLASHES = rb"(?:[a-z ]\\[a-z]+[ ,.]?){3}"
"""Letters escaped one by one."""

ENDS = rb"[a-z]-[ \t]{0,2}\r?\n[ \t]{0,4}[a-z]"
"""A hyphen at the end of a line."""

CUT = rb"(?:[a-z]-[a-z]+[^a-z-](?:[a-z]+[^a-z-])?[^a-z-]?[a-z]*){3}"
"""Three words with a hyphen inside, near each other."""

_FEWEST_CUT = 3

_JOINED = re.compile(r"(?<![A-Za-z])[A-Za-z',.()?!:]{1,24}(?:[_-]{1,2}[A-Za-z0-9',.()?!:]{1,24}){4,}")
_GLUED = re.compile(r"(?<![A-Za-z])[A-Za-z'.]{1,24}+(?:[#;>:=^\\/|~+*&,]{1,2}+[A-Za-z'.]{1,24}+){5,}+")
_GLUE = re.compile(r"[#;>:=^\\/|~+*&,]{1,2}")
_LETTERS_A_WORD = 4
"""Letters and signs of a word among such, on the average."""
_WRAP = re.compile(
    r"(?<![^\s])[(\[\"'`](?=[A-Za-z])|(?<=[A-Za-z.,!?])[)\]\"'`](?:\([^()\s]{0,60}\))?(?=\s|$|[.,!?])"
)
_BACKSLASH = re.compile(r"\\(?=[A-Za-z])")
_SIGN = re.compile(r"(?<=[\w',.()?!:])[_-]{1,2}(?=[\w',.()?!:])")
_EMPHASIS = re.compile(r"(\*\*|__)(?=[^\s*_])|(?<=[^\s*_])(\*\*|__)")
_END = re.compile(r"(?<=[A-Za-z])-[ \t]{0,2}\r?\n[ \t]{0,4}(?=[a-z])")
_HYPHEN = re.compile(r"(?<![a-z-])[a-z]{1,12}(?:-[a-z]{1,12}){1,3}(?![a-z-])")


def word_signs(view: View) -> Iterator[Run]:
    """Blanks for the signs between words, nothing for the marks of emphasis."""
    signs = (
        (run.start() + gap.start(), run.start() + gap.end(), " ")
        for run in _JOINED.finditer(view.source)
        for gap in _SIGN.finditer(run.group())
    )
    glue = (
        (run.start() + gap.start(), run.start() + gap.end(), " ")
        for run in _GLUED.finditer(view.source)
        # Single letters are another reading's.
        if len(run.group()) >= _LETTERS_A_WORD * len(_GLUE.findall(run.group()))
        for gap in _GLUE.finditer(run.group())
    )
    marks = ((match.start(), match.end(), "") for match in _EMPHASIS.finditer(view.source))
    at = 0
    for start, end, text in sorted(chain(signs, glue, marks)):
        if start >= at:
            yield start, end, text
            at = end


def wrapped(view: View) -> Iterator[Run]:
    """Brackets and quotation marks around single words, taken out, with the address of a link."""
    for match in _WRAP.finditer(view.source):
        yield match.start(), match.end(), ""


def backslashes(view: View) -> Iterator[Run]:
    """Backslashes before letters, taken out."""
    for match in _BACKSLASH.finditer(view.source):
        yield match.start(), match.end(), ""


def line_ends(view: View) -> Iterator[Run]:
    """Words put together that a line's end cuts."""
    for match in _END.finditer(view.source):
        yield match.start(), match.end(), ""


def cut_words(view: View) -> Iterator[Run]:
    """Words put together that a hyphen cuts into what is no word; a single one is more likely a prefix."""
    known = english_words()
    found: list[Run] = []
    for match in _HYPHEN.finditer(view.text):
        parts = match.group().split("-")
        word = "".join(parts)
        if word in known and not all(part in known for part in parts):
            found.append((match.start(), match.end(), word))
    yield from found if len(found) >= _FEWEST_CUT else ()
