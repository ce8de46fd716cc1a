"""Facts that checks look up: words, ranges, lengths; read from data/tables.yaml."""

from __future__ import annotations

from importlib import resources

import msgspec


class Tables(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The file's schema. Lists of words are one text, separated by spaces."""

    not_passwords: str
    code_suffixes: str
    iban_lengths: str
    card_issuers: tuple[tuple[int, int, tuple[int, ...]], ...]
    """First digits from, to, lengths."""
    cn_provinces: frozenset[int]
    cn_area_codes: str
    """Pattern (stdlib re)."""
    textbook_addresses: str
    active_elements: str
    event_handlers: str

    def words(self, name: str) -> frozenset[str]:
        """A list of words by its field's name."""
        return frozenset(str(getattr(self, name)).split())


TABLES: Tables = msgspec.yaml.decode(
    resources.files("sparkle.llm.output").joinpath("data", "tables.yaml").read_bytes(), type=Tables
)
