"""Checks of keys, tokens, passwords and mail addresses."""

from __future__ import annotations

import base64
import binascii
import math
import re

from sparkle.llm.output.candidate import Candidate, Span
from sparkle.llm.output.engine import compile_re2, finder
from sparkle.llm.output.tables import TABLES

_WORDS = re.compile(r"[A-Za-z]+|[0-9]+")
_NAME = re.compile(r"[A-Za-z]{1,20}(?:[\-_.][A-Za-z]{1,20})*[\-_.]?[0-9]{0,4}")  # order-import-2024
_PREFIX = re.compile(r"[A-Za-z0-9]{2,6}[\-_]")
_IN_URL = re.compile(r"://[^\s/@:]{0,64}:\Z")
# By RE2, which looks for all these words at once.
_PLACEHOLDER = finder(
    compile_re2(
        r"(?i)your|example|sample|placeholder|dummy|changeme|redacted|insert|replace|x{4}|\*{3}|\.{3}|<[^>]*>|\$\{|\{\{"
        r"|\Atest(?:ing|[_-]?(?:key|token|secret|password))?\z",
        "placeholders of secrets",
    )
)
_NOT_PASSWORDS = TABLES.words("not_passwords")
_CALL = re.compile(r"[A-Za-z_][\w.]*\(|[A-Za-z_]\w*\.[A-Za-z_]\w*|[A-Za-z_]\w*\[")
_ASSIGNED = re.compile(r"[:=：＝>]\s{0,3}[\"'`“‘*]{0,3}\Z|[\"'`“‘]\Z")
_LETTER, _DIGIT, _SIGN = re.compile("[A-Za-z]"), re.compile(r"\d"), re.compile(r"[^A-Za-z0-9.\-]")
_CODE_SUFFIXES = TABLES.words("code_suffixes")
_RESERVED = re.compile(r"(?i)(?:\A|[@.])(?:example\.(?:com|net|org|edu|cn)|example|test|invalid|localhost)\Z")


def _plainly_placeholder(value: str) -> bool:
    """Whether the value says so with the most frequent words, which are found several times as fast."""
    low = value.lower()
    return "your" in low or "xxxx" in low


def _placeholder(value: str) -> bool:
    """Whether somebody is to put a secret here; a part of the value says so."""
    return _plainly_placeholder(value) or _PLACEHOLDER(value.encode(), 0) is not None


def entropy(value: str) -> float:
    """Shannon entropy of the characters, bits per character."""
    total = len(value)
    if not total:
        return 0.0
    repeated = 0.0
    for char in set(value):
        n = value.count(char)
        if n > 1:
            repeated += n * math.log2(n)
    return math.log2(total) - repeated / total


def _random_looking(value: str) -> bool:
    """Whether no person typed this as words: many short pieces, or letters and digits mixed."""
    if _NAME.fullmatch(value):
        return False
    pieces = _WORDS.findall(value)
    digits = sum(len(piece) for piece in pieces if piece.isdigit())
    letters = sum(map(len, pieces)) - digits
    if digits >= 3 and letters >= 3:
        return entropy(value) >= 3.0
    longest = max(map(len, pieces), default=0)
    return longest >= 24 and entropy(value) >= 3.2


def prefixed_key(c: Candidate) -> Span | None:
    """A key behind a provider's prefix whose rest looks random, not like a name with dashes."""
    value = c.value
    if _plainly_placeholder(value) or not _random_looking(_PREFIX.sub("", value, count=1)):
        return None
    return None if _placeholder(value) else c.span


def mixed_token(c: Candidate) -> Span | None:
    """A token behind a telling prefix: anything but a placeholder."""
    value = c.value
    return None if _placeholder(value) or entropy(value) < 2.5 else c.span


def aws_key(c: Candidate) -> Span | None:
    """An AWS key id; those of the AWS documentation end in EXAMPLE."""
    return None if c.value.endswith("EXAMPLE") else c.span


def jwt(c: Candidate) -> Span | None:
    """A JSON web token: the first part decodes to a JSON object with an algorithm."""
    head = c.value.split(".", 1)[0]
    try:
        decoded = base64.urlsafe_b64decode(head + "=" * (-len(head) % 4))
    except (binascii.Error, ValueError):
        return None
    return c.span if decoded.startswith(b"{") and b'"' in decoded else None


def credentials(c: Candidate) -> Span | None:
    """User and password inside a URL; the words *user* and *password* themselves are nobody's."""
    _, _, secret = c.value.partition(":")
    low = secret.rstrip("@").lower()
    return (
        None
        if low in _NOT_PASSWORDS or _placeholder(secret) or low.startswith(("$", "{", "<", "%"))
        else c.span
    )


def email(c: Candidate) -> Span | None:
    """A mail address; reserved domains (RFC 2606), ``git@`` remotes and matrix products in code pass."""
    value = c.value
    if _IN_URL.search(c.before):
        return None  # user:password@host, for the rule about that
    local, _, domain = value.rpartition("@")
    if _RESERVED.search(domain) or local == "git" or domain.rsplit(".", 1)[-1].lower() in _CODE_SUFFIXES:
        return None
    return c.span


def bare_password(c: Candidate) -> Span | None:
    """A value assigned to a password, unless it is a type, a call, a placeholder or the next word of a sentence.

    Behind ``:`` or ``=``, or in quotes, a plain word is a password; behind *is*, 是 or 为 it needs more than letters.
    """
    value = c.value.strip("\"'`“”‘’*")
    low = value.lower().rstrip(".!?:")
    if len(value) < 4 or low in _NOT_PASSWORDS or _CALL.match(value):
        return None
    assigned = _ASSIGNED.search(c.text, max(0, c.start - 8), c.start)
    kinds = (_LETTER.search(value) is not None) + (_DIGIT.search(value) is not None)
    kinds += _SIGN.search(value, 0, len(value) - 1) is not None
    if assigned:
        told = kinds >= 2 or (value.isalnum() and len(value) >= 6) or (kinds and value.isdigit())
    else:
        told = kinds >= 2 or value.isdigit()
    return c.span if told and not _placeholder(value) else None  # last, because it takes longest


def long_secret(c: Candidate) -> Span | None:
    """A random-looking value assigned to something called a key, token or secret."""
    value = c.value
    if _CALL.match(value) or not _random_looking(value) or _placeholder(value):
        return None
    return c.span
