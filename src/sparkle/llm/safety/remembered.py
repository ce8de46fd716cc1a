"""Texts that were judged before and met no rule.

A chat sends its earlier turns again with every question, and an agent sends the same documents in every step; judging
them again would find the same nothing. Kept are keyed digests, never the texts; a text that met any rule, even one that
only watches, is judged and reported every time.
"""

from __future__ import annotations

import secrets
from hashlib import blake2b

_DIGEST_BYTES = 16


class Remembered:
    """A bounded set of texts' digests; the ones not asked for any longer are forgotten first. Thread-safe.

    Holds for one policy: make a new one when the rules change.

    Args:
        most: texts remembered at least, twice as many at most (about 150 bytes each); 0: none.
    """

    __slots__ = ("_key", "_most", "_old", "_young")

    def __init__(self, most: int) -> None:
        self._most = most
        # A key of its own, so that nobody can prepare two texts with one digest.
        self._key = secrets.token_bytes(16)
        self._young: set[bytes] = set()
        self._old: set[bytes] = set()

    def digest(self, text: str, kind: str) -> bytes:
        """What ``text``, judged as ``kind``, is remembered by; empty where nothing is remembered."""
        if not self._most:
            return b""
        data = text.encode("utf-8", "surrogatepass")
        return blake2b(data, digest_size=_DIGEST_BYTES, key=self._key, person=kind.encode()).digest()

    def __contains__(self, digest: bytes) -> bool:
        if digest in self._young:
            return True
        if digest in self._old:
            self.add(digest)
            return True
        return False

    def add(self, digest: bytes) -> None:
        """Remember a digest."""
        if not digest:
            return
        if len(self._young) >= self._most:
            # Two threads may do this at once: then some are forgotten early, which only costs judging them again.
            self._old, self._young = self._young, set()
        self._young.add(digest)

    def clear(self) -> None:
        """Forget everything: something that judges has changed."""
        self._young, self._old = set(), set()
