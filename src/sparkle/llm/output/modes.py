"""Values that go on over white space: the body of a private key, a password in quotes.

A mode is entered by what stands before it and left by what follows. While it lasts everything is redacted at once, so
nothing is held back and memory stays bounded however long it gets.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparkle.llm.output.rules import Rule
from sparkle.llm.output.spans import Span

_HEADER = re.compile(r"-----BEGIN [A-Z0-9 ]{0,40}PRIVATE KEY(?: BLOCK)?-----|Private-Lines: ?[0-9]{1,6}")
HEADER_WIDTH = 80
_BODY = re.compile(r"(?:[A-Za-z0-9+/=]|\\+[nr])+")
_SPACE = re.compile(r"\s*")
_FIELD = re.compile(r"[A-Za-z][A-Za-z\-]{2,24}:")
_LEAST_BODY = 16
_MOST_QUOTED = 128


@dataclass(slots=True)
class KeyBody:
    """Where we stand in a private key: nowhere, behind its header, in a header field's line, in its body."""

    place: str = ""

    def copy(self) -> KeyBody:
        """An independent copy."""
        return KeyBody(self.place)

    def scan(self, text: str, low: int, high: int, rule: Rule, *, triggered: bool) -> list[Span]:
        """Spans of key material in ``text[low:high]``; the state moves on to ``high``."""
        spans: list[Span] = []
        position = low
        if self.place:
            position = self._body(text, low, high, rule, spans)
        if triggered:
            for header in _HEADER.finditer(text, max(0, low - HEADER_WIDTH), high):
                if header.end() > max(low, position):
                    self.place = "header"
                    position = self._body(text, header.end(), high, rule, spans)
        return spans

    def _body(self, text: str, position: int, high: int, rule: Rule, spans: list[Span]) -> int:
        while position < high and self.place:
            if self.place == "field":
                line = text.find("\n", position, high)
                position = high if line < 0 else line
                if line >= 0:
                    self.place = "header"
                continue
            space = _SPACE.match(text, position, high)
            start = space.end() if space else position
            match = _BODY.match(text, start, high)
            length = match.end() - start if match else 0
            if self.place == "body":
                if start > position:
                    spans.append(Span(position, start, rule, continued=True))
                if start == high:
                    return high
            elif start == high:
                return high
            elif length < _LEAST_BODY:
                self.place = "field" if _FIELD.match(text, start, high) else ""
                position = start
                continue
            if not length:
                self.place = ""
                break
            spans.append(Span(start, start + length, rule, continued=self.place == "body"))
            position = start + length
            self.place = "body" if position == high or text[position].isspace() else ""
        return position


@dataclass(slots=True)
class Quoted:
    """A password in quotes that has begun: what closes it and how much may still follow."""

    closer: str = ""
    left: int = 0
    covered: int = 0
    """During one pass: up to where values have been found, so that none is looked for inside another."""

    def copy(self) -> Quoted:
        """A copy for the next pass."""
        return Quoted(self.closer, self.left)

    def open(self, closer: str) -> None:
        """A value behind an opening quote has been found."""
        self.closer, self.left = closer, _MOST_QUOTED

    def scan(self, text: str, low: int, high: int, rule: Rule) -> list[Span]:
        """The rest of the value in ``text[low:high]``, up to its quote, the end of the line or the limit."""
        if not self.closer or low >= high:
            return []
        end = min(high, low + self.left)
        stops = [at for at in (text.find(self.closer, low, end), text.find("\n", low, end)) if at >= 0]
        stop = min(stops, default=end)
        self.left -= stop - low
        self.covered = max(self.covered, stop)
        if stops or self.left <= 0:
            self.closer = ""
        return [Span(low, stop, rule, continued=True)] if stop > low else []
