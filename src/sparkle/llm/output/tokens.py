"""The tokens of a text, looked for by RE2 where the text is long and by the exact pattern where it is short."""

from __future__ import annotations

import re

from sparkle.llm.output.engine import Find

SHORT = 512
"""Characters up to which the exact pattern alone is faster."""


class Tokens:
    """Matches of ``exact`` that begin in ``text[low:high]``; ``find`` matches wherever one can begin."""

    __slots__ = ("_byte", "_place", "_plain", "data", "exact", "find", "high", "text")

    def __init__(self, exact: re.Pattern[str], find: Find, text: str, low: int, high: int) -> None:
        self.exact = exact
        self.find = find
        self.text = text
        self.high = high
        self.data = text[low:high].encode() if high - low > SHORT else None
        self._plain = self.data is not None and len(self.data) == high - low
        self._byte: int = 0
        self._place: int = low

    def byte(self, at: int) -> int:
        """Where the character ``at`` stands in ``data``."""
        place = self._place
        if self._plain:
            return self._byte + at - place
        if at >= place:
            return self._byte + len(self.text[place:at].encode())
        return self._byte - len(self.text[at:place].encode())

    def characters(self, data: bytes) -> int:
        """How many characters a part of ``data`` is."""
        return len(data) if self._plain else len(data.decode())

    def skip(self, token: re.Match[str]) -> None:
        """Go on behind a token in which no other begins."""
        if self.data is not None:
            self._byte, self._place = self.byte(token.end()), token.end()

    def next(self, at: int) -> re.Match[str] | None:
        """The first token at or after ``at`` that was not returned before."""
        if self.data is None:
            token = self.exact.search(self.text, max(at, self._place))
            if token is None or token.start() >= self.high:
                return None
            self._place = token.end()
            return token
        byte, place = self._byte, self._place
        if at > place:
            byte += at - place if self._plain else len(self.text[place:at].encode())
            place = at
        while (found := self.find(self.data, byte)) is not None:
            start = found[0][0]
            place += start - byte if self._plain else len(self.data[byte:start].decode())
            token = self.exact.match(self.text, place)
            # Mostly ASCII; but to RE2 a long s, ſ, is an s in either case.
            byte, place = start + (1 if self._plain else len(self.text[place].encode())), place + 1
            if token:
                self._byte, self._place = byte, place
                return token
        self._byte, self._place = byte, place
        return None
