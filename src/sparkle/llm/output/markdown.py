"""Whether a place in a Markdown text is code, decided from left to right and never in an attacker's favour.

Follows CommonMark 0.31 where it is unambiguous. Wherever a renderer could disagree (raw HTML nearby, an unclosed or
escaped backtick in the paragraph, code indented inside a list that ends early) the answer is "not code": then active
content is redacted although it may have been shown as code, never the other way round.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from sparkle.llm.output.engine import compile_re2, prefix

LONGEST_LINE = 4096
CODE_REACH = 256
"""A code span must close within this many characters behind the place in question."""

_FENCE = re.compile(r"( {0,3})(`{3,}|~{3,})([^\n]*)\Z")
_RAW_LINE = re.compile(
    r"[ \t>*+\-]*(?:[0-9]{1,9}[.)])?[ \t>*+\-]*<(?:(!|\?|(?i:script|pre|style|textarea)\b)|/?[A-Za-z])"
)
_INLINE = re.compile(r"`+|<(?=[A-Za-z/!?])|\|")
# What changes the state: inside an HTML block, in a paragraph without code spans, elsewhere.
_BLANK = re.compile(r"\n[ \t\r]*\n")
_BLOCK = re.compile(r"\n(?:[ \t\r]*\n| {0,3}(?:```|~~~)|[ \t>*+\-0-9.)]*<)")
_SPECIAL = re.compile("[`~<]")
_FIRST = re.compile(r"[ \t]*")


# Lines without raw HTML whose code spans are simple, and fences without a backtick inside; by RE2, at its speed.
_PLAIN_TEXT = r"(?:[^`<~\n\\]|<+[^`<~\n\\A-Za-z/!?])"
_SPAN = r"`[^`\n|]{1,200}`"
_PLAIN = prefix(
    compile_re2(
        r"(?:```[^`\n]*\n(?:[^`\n]*\n)*```\n"
        rf"|{_PLAIN_TEXT}*<*(?:{_SPAN}(?:{_PLAIN_TEXT}+<*|<+))*(?:{_SPAN})?\n)*",
        "plain Markdown",
    )
)


def plain_end(data: bytes, start: int, end: int) -> int:
    """How far from a line's beginning at ``start`` every ``<`` of an element is code, whoever renders it.

    Places are those of UTF-8 bytes. What ends there has left no trace in the state: no paragraph is dirty, no fence
    open. Never more than whole lines, none longer than :data:`LONGEST_LINE`.
    """
    stop = max(start, _PLAIN(data, start, end))
    while stop - start > LONGEST_LINE:  # from one line's beginning to the last one that is near enough
        near = data.rfind(b"\n", start, start + LONGEST_LINE + 1)
        if near < 0:
            return start
        start = near + 1
    return stop


@dataclass(slots=True)
class Markdown:
    """The state at one point of a text; ``line`` is what is known of the line there."""

    line: str = ""
    long: bool = False
    fence: str = ""
    fence_indent: int = 0
    raw_block: bool = False
    """Inside an HTML block, until a blank line."""
    distrusted: bool = False
    """Code is not recognised any more: what follows is ambiguous for the rest of the text."""
    dirty: bool = False
    """The paragraph has raw HTML or a backtick without a partner: no code spans until it ends."""
    parsed: int = 0
    opened: int = 0
    """Length of the backtick run that is open on this line; 0 when none is."""
    piped: bool = False

    def copy(self) -> Markdown:
        """An independent copy."""
        return Markdown(
            self.line,
            self.long,
            self.fence,
            self.fence_indent,
            self.raw_block,
            self.distrusted,
            self.dirty,
            self.parsed,
            self.opened,
            self.piped,
        )

    @property
    def plain(self) -> bool:
        """Whether nothing that came before matters for what follows."""
        return self == _PRISTINE

    def advance(self, text: str) -> None:
        """Take in the text that follows."""
        start = 0
        while (end := text.find("\n", start)) >= 0:
            self._grow(text[start:end])
            self._end_line()
            start = self._skip_plain(text, end + 1)
        self._grow(text[start:])

    def code(self, following: str, *, final: bool) -> bool | None:
        """Whether the next character, which is no backtick, is code; ``following`` is the known text from it on.

        ``None`` when it depends on text that is not there yet (never when ``final``).
        """
        if self.distrusted or self.raw_block:
            return False
        if self.fence:
            return self._indent() >= self.fence_indent
        if self.dirty or self.long or _FENCE.match(self.line):
            return False
        self._parse()
        if self.dirty or not self.opened:
            return False
        window = following[:CODE_REACH]
        line_end = window.find("\n")
        window = window if line_end < 0 else window[:line_end]
        whole = line_end >= 0 or len(following) >= CODE_REACH or final
        bar = window.find("|")
        for run in re.finditer("`+", window):
            if 0 <= bar < run.start():
                return False
            if run.end() == len(window) and not whole:
                return None
            if run.end() - run.start() == self.opened:
                return not self.piped
        return False if whole or bar >= 0 else None

    def _skip_plain(self, text: str, start: int) -> int:
        """Past whole lines that change nothing; ``start`` is the beginning of a line and not of the text."""
        if self.fence:
            if self.fence_indent:
                return start
            special = text.find(self.fence[:3], start)
        else:
            pattern = _BLANK if self.raw_block else _BLOCK if self.dirty else _SPECIAL
            match = pattern.search(text, start - 1)
            special = match.end() - 1 if match else -1
        line = text.rfind("\n", start, special if special >= 0 else len(text))
        return line + 1 if line >= 0 else start

    def _grow(self, part: str) -> None:
        if self.long or len(self.line) + len(part) > LONGEST_LINE:
            # Too long to look at again; a fence's content does not need to be.
            self.long = True
            self.line = (self.line + part)[:64] if len(self.line) < 64 else self.line
        else:
            self.line += part

    def _indent(self) -> int:
        match = _FIRST.match(self.line)
        return len(match.group()) if match else 0

    def _end_line(self) -> None:
        line, blank = self.line, not self.line.strip(" \t\r")
        if self.fence:
            self._in_fence(line, blank)
        elif blank:
            self.dirty = self.raw_block = False
        elif not self.raw_block and (opening := _FENCE.match(line)) and not self.long:
            indent, fence, info = opening.groups()
            if fence[0] == "`" and "`" in info:
                self.dirty = True
            else:
                self.fence, self.fence_indent, self.dirty = fence, len(indent), False
        else:
            raw = _RAW_LINE.match(line)
            if raw:
                self.distrusted = self.distrusted or raw.group(1) is not None
                self.raw_block = True
            self._parse()
            self.dirty = self.dirty or self.opened > 0 or self.long
        self.line, self.long, self.parsed, self.opened, self.piped = "", False, 0, 0, False

    def _in_fence(self, line: str, blank: bool) -> None:
        if blank or self.long:
            return
        indent = self._indent()
        stripped = line.strip(" \t")
        closes = len(stripped) >= len(self.fence) and not stripped.strip(self.fence[0])
        if closes and indent <= self.fence_indent + 3 and "\t" not in line[:indent]:
            self.fence = ""
        elif self.fence_indent and (closes or indent < self.fence_indent):
            # In a list the item may have ended here, and the fence with it.
            self.distrusted = True

    def _parse(self) -> None:
        if self.dirty or ("`" not in self.line and "<" not in self.line):
            return
        for token in _INLINE.finditer(self.line, self.parsed):
            text, at = token.group(), token.start()
            self.parsed = token.end()
            if text == "<":
                if not self.opened:
                    self.dirty = True
                    return
            elif text == "|":
                self.piped = self.opened > 0
            elif self.opened == len(text):
                self.opened, self.piped = 0, False
            elif not self.opened:
                if at and self.line[at - 1] == "\\":
                    self.dirty = True
                    return
                self.opened = len(text)


_PRISTINE = Markdown()
