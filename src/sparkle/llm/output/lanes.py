"""Check digits of many values at once: one column of all values is one translation and one addition.

A megabyte can hold 90,000 numbers that only their check digit tells from a person's. Asking each of them in Python
takes a microsecond and more; here a value is one byte (a *lane*) of a long integer, so that a hundred thousand are
added, digit by digit, in a few steps of the interpreter. Lanes never overflow: sums are reduced before they reach 256.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

Lanes = Callable[[Sequence[str]], list[int]]
"""Indices of the values whose check digits are right, ascending."""

_RIGHT = re.compile(b"\x01")
_MOST = 255


def _reduced(modulus: int) -> bytes:
    return bytes(n % modulus for n in range(256))


def _right(modulus: int, wanted: int) -> bytes:
    return bytes(n % modulus == wanted for n in range(256))


def _right_lanes(total: int, count: int, right: bytes) -> list[int]:
    return [m.start() for m in _RIGHT.finditer(total.to_bytes(count, "little").translate(right))]


def weighted(numbers: bytes, weights: Sequence[int], modulus: int, wanted: int = 0) -> Lanes:
    """Values of ``len(weights)`` signs, whose weighted sum must leave ``wanted``.

    ``numbers`` says what number a sign (its code in Latin-1) stands for; a weight of 0 passes over a place. Values of
    another length are not allowed.
    """
    tables = [bytes(number * weight % modulus for number in numbers) for weight in weights]
    reduce, right = _reduced(modulus), _right(modulus, wanted)
    width = len(weights)

    def lanes(values: Sequence[str]) -> list[int]:
        data, count = "".join(values).encode("latin-1"), len(values)
        total, largest = 0, 0
        for place, table in enumerate(tables):
            if largest + modulus - 1 > _MOST:
                total = int.from_bytes(total.to_bytes(count, "little").translate(reduce), "little")
                largest = modulus - 1
            total += int.from_bytes(data[place::width].translate(table), "little")
            largest += modulus - 1
        return _right_lanes(total, count, right)

    return lanes


def luhn(width: int) -> Lanes:
    """Numbers of at most ``width`` digits, ISO/IEC 7812."""
    digits = bytes(c - 48 if 48 <= c < 58 else 0 for c in range(256))
    twice = bytes(2 * n - 9 * (n > 4) for n in digits)
    right = _right(10, 0)

    def lanes(values: Sequence[str]) -> list[int]:
        data, count = "".join([value.rjust(width, "0") for value in values]).encode(), len(values)
        total = 0
        for place in range(width):
            table = digits if (width - place) % 2 else twice
            total += int.from_bytes(data[place::width].translate(table), "little")
        return _right_lanes(total, count, right)

    return lanes


def mod97(width: int) -> Lanes:
    """ISO 7064 MOD 97-10 over at most ``width`` digits and capital letters, the check digits last.

    A digit moves what stands before it by one decimal place, a letter by two.
    """
    number = bytes(c - 48 if 48 <= c < 58 else c - 55 if 65 <= c < 91 else 0 for c in range(256))
    letter = bytes(255 if 65 <= c < 91 else 0 for c in range(256))
    figure = bytes(255 - c for c in letter)
    by_10 = bytes(n * 10 % 97 for n in range(256))
    by_100 = bytes(n * 100 % 97 for n in range(256))
    reduce, right = _reduced(97), _right(97, 1)

    def lanes(values: Sequence[str]) -> list[int]:
        data, count = "".join([value.rjust(width, "0") for value in values]).encode(), len(values)
        state = bytes(count)
        for place in range(width):
            column = data[place::width]
            moved = int.from_bytes(state.translate(by_100), "little") & int.from_bytes(
                column.translate(letter), "little"
            )
            moved |= int.from_bytes(state.translate(by_10), "little") & int.from_bytes(
                column.translate(figure), "little"
            )
            moved += int.from_bytes(column.translate(number), "little")
            state = moved.to_bytes(count, "little").translate(reduce)
        return [m.start() for m in _RIGHT.finditer(state.translate(right))]

    return lanes
