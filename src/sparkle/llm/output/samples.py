"""Values that look real, made on the spot: examples in rule files are templates, so that no file looks like a leak.

``expand("call 1{mob}", random.Random(1))`` fills each ``{macro:arguments}``; braces that name no macro stay.
"""

from __future__ import annotations

import base64
import json
import random
import re
import string
from collections.abc import Callable

_MACRO = re.compile(r"\{([a-z][a-z0-9_]*)(?::([^{}\"]*))?\}")
_B62 = string.ascii_letters + string.digits
_USCC = "0123456789ABCDEFGHJKLMNPQRTUWXY"
_FIRST = ("wei", "lina", "zhang", "mchen", "olivia", "j.smith", "haruto", "anna")
_NUMBERS_OF_LETTERS = {c: str(10 + i) for i, c in enumerate(string.ascii_uppercase)}


def expand(template: str, rng: random.Random) -> str:
    """Fill the macros of a template; the same generator state gives the same text."""

    def fill(match: re.Match[str]) -> str:
        make = _MACROS.get(match.group(1))
        return make(rng, match.group(2) or "") if make else match.group(0)

    return _MACRO.sub(fill, template)


def _pick(rng: random.Random, alphabet: str, n: int) -> str:
    return "".join(rng.choice(alphabet) for _ in range(n))


def _b62(rng: random.Random, arg: str) -> str:
    n = int(arg)
    text = [rng.choice(_B62) for _ in range(n)]
    for place in range(1, n, 4):  # random enough to be a key whatever the draw
        text[place] = rng.choice(string.digits)
    return "".join(text)


def _up(rng: random.Random, arg: str) -> str:
    text = _pick(rng, string.ascii_uppercase + string.digits, int(arg))
    return text[:-7] + "Q7Z2K9B" if len(text) >= 16 else text


def _luhn(rng: random.Random, arg: str) -> str:
    prefix, length = arg.split(":")
    body = prefix + _pick(rng, string.digits, int(length) - len(prefix) - 1)
    return next(body + d for d in string.digits if _luhn_ok(body + d))


def _luhn_ok(digits: str) -> bool:
    twice = [sum(divmod(2 * int(d), 10)) if i % 2 else int(d) for i, d in enumerate(reversed(digits))]
    return sum(twice) % 10 == 0


def _groups(text: str, size: int = 4) -> str:
    return " ".join(text[i : i + size] for i in range(0, len(text), size))


def _cnid(rng: random.Random, _: str) -> str:
    area = rng.choice(("110101", "310104", "440305", "510107", "330106"))
    body = f"{area}{rng.randint(1960, 2007)}{rng.randint(1, 12):02}{rng.randint(1, 28):02}{rng.randint(0, 999):03}"
    total = sum(
        w * int(d) for w, d in zip((7, 9, 10, 5, 8, 4, 2, 1, 6, 3, 7, 9, 10, 5, 8, 4, 2), body, strict=True)
    )
    return body + "10X98765432"[total % 11]


def _cnid_spaced(rng: random.Random, _: str) -> str:
    value = _cnid(rng, "")
    return f"{value[:6]} {value[6:14]} {value[14:]}"


def _iban(rng: random.Random, arg: str) -> str:
    country, spec = arg.split(":")
    body = _pick(rng, string.digits, int(spec.rstrip("A")))
    if spec.endswith("A"):
        body = _pick(rng, string.ascii_uppercase, 4) + body[4:]
    number = int("".join(_NUMBERS_OF_LETTERS.get(c, c) for c in body + country + "00"))
    return f"{country}{98 - number % 97:02}{body}"


def _uscc(rng: random.Random, _: str) -> str:
    body = "91" + rng.choice(("110108", "310115", "440300")) + "MA" + _pick(rng, _USCC, 7)
    total = sum(_USCC.index(c) * pow(3, i, 31) for i, c in enumerate(body))
    return body + _USCC[-total % 31]


def _hkid(rng: random.Random, _: str) -> str:
    letter, digits = rng.choice(string.ascii_uppercase), _pick(rng, string.digits, 6)
    total = 9 * 36 + 8 * (ord(letter) - 55) + sum((7 - i) * int(d) for i, d in enumerate(digits))
    return f"{letter}{digits}({'0123456789A'[-total % 11]})"


def _twid(rng: random.Random, _: str) -> str:
    letter = rng.choice("ABCDEFGH")
    code = "ABCDEFGHJKLMNPQRSTUVXYWZIO".index(letter) + 10
    digits = rng.choice("12") + _pick(rng, string.digits, 7)
    total = code // 10 + code % 10 * 9 + sum(int(d) * (8 - i) for i, d in enumerate(digits))
    return f"{letter}{digits}{-total % 10}"


def _jwt(rng: random.Random, _: str) -> str:
    parts = [
        base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=")
        for part in ({"alg": "HS256", "typ": "JWT"}, {"sub": _pick(rng, string.digits, 9), "exp": 1900000000})
    ]
    return ".".join((*parts, _b62(rng, "43")))


def _password(rng: random.Random, _: str) -> str:
    word, sign = rng.choice(("Tiger", "Xinghuo", "blue", "Qw")), rng.choice("!@#$%")
    return f"{word}{sign}{rng.randint(100, 99999)}{_pick(rng, _B62, 3)}"


def _hex(rng: random.Random, arg: str) -> str:
    n = int(arg)
    return _pick(rng, "0123456789abcdef", n - 4) + "7f3a" if n > 8 else _pick(rng, "123456789abcdef", n)


def _of(alphabet: str) -> Callable[[random.Random, str], str]:
    return lambda rng, arg: _pick(rng, alphabet, int(arg or "1"))


_MACROS: dict[str, Callable[[random.Random, str], str]] = {
    "b62": _b62,
    "up": _up,
    "hex": _hex,
    "low": _of(string.ascii_lowercase),
    "d": _of(string.digits),
    "d4nz": lambda rng, _: str(rng.randint(1000, 9998)),
    "sd": lambda rng, arg: " ".join(_pick(rng, string.digits, int(arg))),
    "mob": lambda rng, _: rng.choice("3456789") + _pick(rng, string.digits, 9),
    "o": lambda rng, _: str(rng.randint(2, 250)),
    "h2": lambda rng, _: _pick(rng, "123456789abcde", 2),
    "luhn": _luhn,
    "g4": lambda rng, arg: _groups(_luhn(rng, arg)),
    "cnid": _cnid,
    "cnid_spaced": _cnid_spaced,
    "iban": _iban,
    "iban4": lambda rng, arg: _groups(_iban(rng, arg)),
    "uscc": _uscc,
    "hkid": _hkid,
    "twid": _twid,
    "jwt": _jwt,
    "pw": _password,
    "name": lambda rng, _: rng.choice(_FIRST),
}
