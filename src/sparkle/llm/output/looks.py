"""What checks say of the text before a value, as looks that a sieve's patterns can hold.

Each says no more than its check does, so a sieve that uses it passes over nothing that the check would let through.
All of them stand behind the value's first sign, which a sieve has consumed already.
"""

from __future__ import annotations

from collections.abc import Sequence

from sparkle.llm.output.tables import TABLES

_LABELS = (
    "tel",
    "phone",
    "mobile",
    "cell",
    "fax",
    "card",
    "visa",
    "id",
    "no",
    "nr",
    "number",
    "ssn",
    "whatsapp",
)
_ALL_LABELS = (*_LABELS, "wechat", "iban", "n")
# The looks at the neighbours of a rule that is ``whole`` (candidate.glued), behind its first sign.
APART = "(?<![A-Za-z0-9].)"
LOOSE = (
    f"(?:{APART}(?<![A-Za-z0-9][._\\-/].)|(?i:"
    + "|".join(f"(?<={label}.)|(?<={label}[._\\-/].)" for label in _ALL_LABELS)
    + "))"
)
LOOSE_AHEAD = "(?![A-Za-z0-9])(?![._\\-][A-Za-z0-9])"


def _behind(cases: Sequence[tuple[str, Sequence[str]]]) -> str:
    """No match where one of the cases stands before: the sign right before the value, and what ends with it.

    The sign is asked first, because almost always it is none of those.
    """
    return (
        "(?!"
        + "|".join(f"(?<={last}.)(?:" + "|".join(f"(?<={t}.)" for t in texts) + ")" for last, texts in cases)
        + ")"
    )


_BLANK = "[^\\S\\n]"
_COLON = "[:：]"
_VERSION = ("(?i:version|release)", "(?i:ver\\.)", "(?i:ver)", "版本|[A-Za-z]-", "(?i:版|\\bv)")
# network_checks: words of versions, then at most one blank, colon and blank.
NO_VERSION = _behind(
    [
        (_BLANK, [f"(?:{w}){g}{_BLANK}" for g in ("", _BLANK, _COLON, _BLANK + _COLON) for w in _VERSION]),
        (_COLON, [f"(?:{w}){g}{_COLON}" for g in ("", _BLANK) for w in _VERSION]),
        ("[A-Za-z.版本\\-]", [f"(?:{w})" for w in _VERSION]),
    ]
)
_SUMS = [
    ("[*×÷^√∑/]", ["[*×÷^√∑/]"]),
    ("[=≈]", ["[0-9)!\\]][=≈]", "[0-9)!\\]]\\s[=≈]"]),
    ("[+\\-−]", ["[0-9)][+\\-−]", "[0-9)]\\s[+\\-−]"]),
]
# candidate.arithmetic
NO_ARITHMETIC = _behind([*_SUMS, ("\\s", [f"{t}\\s" for _, texts in _SUMS for t in texts])])

_GAP = "[ ().\\-]{0,3}"
_STUB = "{0,24}?(?:your|Your|YOUR|xxxx|XXXX|example|EXAMPLE))"
FRAGMENTS = {
    # By length, so that the longest one is tried first.
    "{not_passwords}": "|".join(sorted(TABLES.words("not_passwords"), key=lambda word: (-len(word), word))),
    # phones: numbers of the North American plan that are kept for fiction, up to the end of a group of digits.
    "{no_fiction}": f"(?!{_GAP.join(['1', '[2-9]', '[0-9]', '[0-9]', *'55501', '[0-9]', '[0-9]'])}(?![0-9]))",
    # Up to 15 digits and more groups than a number has; the sieve counts them.
    "{dialled}": "[1-9][0-9]{0,14}+(?![0-9])(?:[ ().\\-]{1,3}+[0-9]{1,15}+){0,14}+",
    # Words of placeholders (secret_checks.py) where they are certain to be a part of the key.
    "{no_stub}": "(?![A-Za-z0-9]" + _STUB,
    "{no_dashed_stub}": "(?![A-Za-z0-9\\-]" + _STUB,
    # The rest of a key that is one character again and again.
    "{no_row}": "(?!([A-Za-z0-9])\\1*+(?![A-Za-z0-9_\\-+/=.%]))",
    "{code_suffixes}": "|".join(sorted(TABLES.words("code_suffixes"))),
    "{no_version}": NO_VERSION,
    "{no_arithmetic}": NO_ARITHMETIC,
}
"""What patterns of sieves may name."""
