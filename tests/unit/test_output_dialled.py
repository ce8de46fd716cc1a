"""What the arithmetic before the telephone library decides is what the library decides."""

from __future__ import annotations

import random

import phonenumbers
import pytest

from sparkle.llm.output.dialled import Dialled, dialled


def by_library(digits: str, *, plus: bool) -> Dialled:
    try:
        number = phonenumbers.parse("+" + digits)
    except phonenumbers.NumberParseException:
        return Dialled.NO
    if phonenumbers.is_valid_number(number):
        return Dialled.VALID
    return Dialled.POSSIBLE if plus and phonenumbers.is_possible_number(number) else Dialled.NO


def numbers(rng: random.Random, code: int, region: str) -> list[str]:
    """An example of the region's numbers, whole, changed, too short, too long and with a prefix for inland calls."""
    example = phonenumbers.example_number(region)
    national = phonenumbers.national_significant_number(example) if example else "12345678"
    place = rng.randrange(len(national))
    changed = national[:place] + rng.choice("0123456789") + national[place + 1 :]
    return [
        f"{code}{n}"
        for n in (national, changed, national[:-1], national + "7", "0" + national, "1" + changed)
    ]


@pytest.mark.parametrize("plus", [True, False])
def test_no_number_is_judged_otherwise_than_by_the_library_alone(plus: bool) -> None:
    rng = random.Random(7)
    for code, regions in phonenumbers.COUNTRY_CODE_TO_REGION_CODE.items():
        for digits in numbers(rng, code, regions[0]):
            assert dialled(digits, plus=plus) is by_library(digits, plus=plus), digits


@pytest.mark.parametrize("digits", ["2105551234", "999123456789", "0123456789"])
def test_a_code_of_no_country_is_no_number(digits: str) -> None:
    assert dialled(digits, plus=True) is Dialled.NO
