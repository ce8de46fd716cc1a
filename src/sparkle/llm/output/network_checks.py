"""Checks of network addresses."""

from __future__ import annotations

import re
from ipaddress import IPv4Address, IPv6Address, ip_network

from sparkle.llm.output.candidate import Candidate, Span, word
from sparkle.llm.output.tables import TABLES

_VERSION = re.compile(r"(?i)(?:\bv|version|ver\.?|release|版本|版|[A-Za-z]-)[^\S\n]?[:：]?[^\S\n]?\Z")
_TEXTBOOK = frozenset(map(IPv4Address, TABLES.words("textbook_addresses")))
_GLOBAL_V6 = ip_network("2000::/3")
_DOCUMENTATION_V6 = (ip_network("2001:db8::/32"), ip_network("3fff::/20"))


def _v4(c: Candidate) -> IPv4Address | None:
    text, start, after = c.text, c.start, c.after
    before = text[max(0, start - 2) : start]
    if word(before[-1:]) or (before[-1:] == "." and before[:1].isdigit() and before[:1].isascii()):
        return None
    if word(after[:1]) or (after[:1] == "." and after[1:].isdigit() and after.isascii()):
        return None
    if _VERSION.search(text, max(0, start - 16), start):
        return None
    try:
        return IPv4Address(c.value)
    except ValueError:  # an octet above 255, or written with a leading zero
        return None


def _told(address: IPv4Address) -> bool:
    return address.is_global and not address.is_multicast and address not in _TEXTBOOK


def ipv4_public(c: Candidate) -> Span | None:
    """An IPv4 address that somebody's machine may have."""
    address = _v4(c)
    return c.span if address is not None and _told(address) else None


def ipv4_special(c: Candidate) -> Span | None:
    """A private, loopback, documentation or textbook IPv4 address."""
    address = _v4(c)
    return c.span if address is not None and not _told(address) else None


def _v6(c: Candidate) -> IPv6Address | None:
    value = c.value
    if word(c.before[-1:]) or word(c.after[:1]) or value.count(":") < 2:
        return None
    try:
        return IPv6Address(value)
    except ValueError:
        return None


def ipv6_public(c: Candidate) -> Span | None:
    """A routed IPv6 address (2000::/3), or any written with all eight groups; ``a::b`` in code is neither."""
    address = _v6(c)
    if address is None or any(address in net for net in _DOCUMENTATION_V6):
        return None
    full = c.value.count(":") == 7 and "::" not in c.value and not address.is_private
    return c.span if address in _GLOBAL_V6 or full else None


def ipv6_special(c: Candidate) -> Span | None:
    """A loopback, local or documentation IPv6 address."""
    address = _v6(c)
    if address is None or ("::" in c.value and len(c.value) < 4 and address != IPv6Address("::1")):
        return None
    local = address.is_loopback or address.is_link_local or (address.is_private and len(c.value) > 6)
    return c.span if local or any(address in net for net in _DOCUMENTATION_V6) else None


def mac(c: Candidate) -> Span | None:
    """A hardware address; broadcast and all zeros are nobody's."""
    if word(c.before[-1:]) or (c.before and c.before[-1] in ":-") or word(c.after[:1]):
        return None
    return None if len(set(c.value) - {":", "-"}) == 1 else c.span
