"""Whether an international number can be dialled, asked of the library's metadata as seldom as possible.

The library takes 50 to 200 us for a number. What has no country's code or length is turned down by arithmetic and one
match before it is asked, and answers are remembered by digits.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from sparkle.llm.output.syntax import bounded_width

# What a valid number of a country is one of.
_KINDS = (
    "fixed_line",
    "mobile",
    "toll_free",
    "premium_rate",
    "shared_cost",
    "personal_number",
    "voip",
    "pager",
    "uan",
    "voicemail",
)


class Dialled(Enum):
    """What the metadata says of a number."""

    NO = 0
    POSSIBLE = 1
    """Of a length that is possible in its country."""
    VALID = 2


class _Country(NamedTuple):
    """What every number behind a country's code has in common."""

    lengths: range
    """Of the digits behind the code, a prefix for calls inside the country included."""
    form: re.Pattern[str] | None
    """Matches at least the valid ones, of whatever kind; ``None`` when the metadata rewrites numbers."""


def hopeless(digits: str, *, plus: bool) -> bool:
    """Whether no beginning of these digits, from the country's code on, is of interest to :func:`dialled`; cheap."""
    known = _known(digits[:3])
    if known is None:
        return True
    size, country = known
    if len(digits) - size < country.lengths.start:
        return True
    return not plus and country.form is not None and country.form.match(digits, size) is None


def hopeful(numbers: Sequence[str]) -> list[int]:
    """Indices of the numbers, ``+`` or ``00`` and then digits, that have 8 digits and are not :func:`hopeless`."""
    found: list[int] = []
    for k, number in enumerate(numbers):  # one loop without a call, because there may be 40,000 of them
        at = 1 if number[0] == "+" else 2
        known = _known(number[at : at + 3])
        if known is None or len(number) < at + 8:
            continue
        size, country = known
        if len(number) - at - size < country.lengths.start:
            continue
        if at == 1 or country.form is None or country.form.match(number, at + size):
            found.append(k)
    return found


@lru_cache(maxsize=1024)
def _known(first: str) -> tuple[int, _Country] | None:
    return next(((n, c) for n in (1, 2, 3) if (c := _country(first[:n])) is not None), None)


@lru_cache(maxsize=8192)
def dialled(digits: str, *, plus: bool) -> Dialled:
    """What a number is, from its country's code on; only behind ``plus`` is anything but a valid one of interest."""
    found = _known(digits[:3])
    if found is None:
        return Dialled.NO
    rest, country = digits[found[0] :], found[1]
    if len(rest) not in country.lengths:
        return Dialled.NO
    if not plus and country.form is not None and not country.form.fullmatch(rest):
        return Dialled.NO
    import phonenumbers  # metadata costs time and memory: only once a candidate is seen

    try:
        number = phonenumbers.parse("+" + digits)
    except phonenumbers.NumberParseException:
        return Dialled.NO
    if (country.form is None or country.form.fullmatch(rest)) and phonenumbers.is_valid_number(number):
        return Dialled.VALID
    return Dialled.POSSIBLE if plus and phonenumbers.is_possible_number(number) else Dialled.NO


@lru_cache(maxsize=1024)
def _country(code: str) -> _Country | None:
    """What is known of a country's code; ``None`` when there is no such code."""
    from phonenumbers import COUNTRY_CODE_TO_REGION_CODE, PhoneMetadata

    regions = COUNTRY_CODE_TO_REGION_CODE.get(int(code), ())
    if not regions:
        return None
    if regions == ("001",):  # a service of no country
        known = [PhoneMetadata.metadata_for_nongeo_region(int(code), None)]
    else:
        known = [PhoneMetadata.metadata_for_region(region, None) for region in regions]
    present = [data for data in known if data is not None]
    general = [data.general_desc for data in present if data.general_desc is not None]
    if not general or len(general) < len(regions):
        return _Country(range(20), None)
    main = present[0]
    inland = main.national_prefix_for_parsing or ""
    rewritten = main.national_prefix_transform_rule is not None
    lengths = [
        length
        for desc in general
        for length in (*desc.possible_length, *desc.possible_length_local_only)
        if length > 0
    ]
    widest = bounded_width(inland) if inland else 0
    patterns = {
        desc.national_number_pattern
        for data in present
        for kind in _KINDS
        if (desc := getattr(data, kind)) is not None and desc.national_number_pattern
    }
    form = "|".join(f"(?:{pattern})" for pattern in sorted(patterns))
    return _Country(
        range(1 if rewritten else min(lengths), max(lengths) + widest + 1),
        None if rewritten else re.compile(f"(?:{inland})?(?:{form})" if inland else form),
    )
