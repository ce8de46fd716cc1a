"""What models cost: a YAML table, exact integer arithmetic.

A price is US dollars per million tokens, which is micro-dollars per token; it is kept as pico-dollars per
token, so that ``0.0375`` is exact, and a cost is rounded up once, to nano-dollars.
"""

from __future__ import annotations

import fnmatch
import re
from dataclasses import dataclass
from decimal import Decimal
from importlib import resources
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from sparkle.errors import ConfigurationError

_PICO_PER_NANO = 1_000
_LARGEST_CACHE = 1_024


class PriceEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One line of the table."""

    models: Annotated[
        tuple[str, ...], Meta(min_length=1, description="Model names; glob patterns; case is ignored.")
    ]
    input: Annotated[Decimal, Meta(description="US dollars per million prompt tokens.")]
    output: Annotated[Decimal, Meta(description="US dollars per million answer tokens.")] = Decimal(0)
    source: Annotated[str, Meta(description="Where the price was read.")] = ""
    date: Annotated[str, Meta(pattern=r"^(\d{4}-\d{2}(-\d{2})?)?$", description="When it was read.")] = ""


class PriceFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole file."""

    version: int = 1
    prices: tuple[PriceEntry, ...]


@dataclass(frozen=True, slots=True)
class Price:
    """The price of one model, in pico-US-dollars per token."""

    input: int
    output: int
    known: bool
    """False: the model is in no table; it is counted but costs nothing."""

    def cost(self, prompt_tokens: int, completion_tokens: int) -> int:
        """Nano-US-dollars, rounded up."""
        return -((prompt_tokens * self.input + completion_tokens * self.output) // -_PICO_PER_NANO)


UNKNOWN = Price(0, 0, known=False)


class PriceTable:
    """Prices by model name; the most literal pattern wins, and of equal ones the earlier.

    ``vendor/model`` is looked up whole first, then without the vendor.
    """

    def __init__(self, *tables: PriceFile) -> None:
        exact: dict[str, Price] = {}
        globs: list[tuple[int, re.Pattern[str], Price]] = []
        for table in tables:
            for entry in table.prices:
                price = Price(_pico(entry.input), _pico(entry.output), known=True)
                for pattern in entry.models:
                    name = pattern.lower()
                    if any(c in name for c in "*?["):
                        literal = len(re.sub(r"\[.*?\]|[*?]", "", name))
                        globs.append((literal, re.compile(fnmatch.translate(name)), price))
                    else:
                        exact.setdefault(name, price)
        globs.sort(key=lambda item: -item[0])
        self._exact, self._globs = exact, globs
        self._seen: dict[str, Price] = {}

    @classmethod
    def load(cls, file: str | Path = "") -> PriceTable:
        """The shipped table, with those of ``file`` (YAML, same schema) before it.

        Raises:
            ConfigurationError: The file cannot be read or does not follow the schema.
        """
        shipped = resources.files(__package__ or "sparkle.llm.quota").joinpath("prices.yaml").read_bytes()
        tables = [_decode(shipped, "the shipped price table")]
        if file:
            try:
                own = Path(file).read_bytes()
            except OSError as exc:
                raise ConfigurationError(f"quota.prices_file {file}: {exc.strerror or exc}") from None
            decoded = _decode(own, f"quota.prices_file {file}")
            # The owner's table decides alone wherever any of its patterns fits.
            return _Layered(cls(decoded), cls(*tables))
        return cls(*tables)

    def price(self, model: str) -> Price:
        """The price of a model; :data:`UNKNOWN` when no entry fits."""
        found = self._seen.get(model)
        if found is None:
            found = self._find(model)
            # Names come from callers, so the memory of them is bounded.
            if len(self._seen) >= _LARGEST_CACHE:
                self._seen.clear()
            self._seen[model] = found
        return found

    def _find(self, model: str) -> Price:
        name = model.lower()
        for candidate in dict.fromkeys((name, name.rpartition("/")[2])):
            if candidate in self._exact:
                return self._exact[candidate]
            for _, pattern, price in self._globs:
                if pattern.match(candidate):
                    return price
        return UNKNOWN


class _Layered(PriceTable):
    """One table before another."""

    def __init__(self, first: PriceTable, second: PriceTable) -> None:
        super().__init__()
        self._first, self._second = first, second

    def _find(self, model: str) -> Price:
        own = self._first.price(model)
        return own if own.known else self._second.price(model)


def _decode(raw: bytes, name: str) -> PriceFile:
    try:
        table = msgspec.yaml.decode(raw, type=PriceFile, strict=False)
    except msgspec.DecodeError as exc:
        raise ConfigurationError(f"{name}: {exc}") from None
    for entry in table.prices:
        for amount in (entry.input, entry.output):
            if not (amount.is_finite() and amount >= 0):
                raise ConfigurationError(
                    f"{name}: the price of {entry.models[0]!r} is not a number of dollars"
                )
    return table


def _pico(usd_per_million: Decimal) -> int:
    # 1 USD per million tokens is 10**6 pico-dollars per token.
    return int((usd_per_million * 10**6).to_integral_value(rounding="ROUND_CEILING"))
