"""Answers that a page shows as HTML: sanitised with nh3 (ammonia), which knows how browsers read.

Text without ``<`` and ``&`` only has its ``>`` escaped, whatever follows, so a stream lets it go. From the first of
these signs on the rest is held back until the answer ends and is sanitised as a whole (fail closed): a tag's meaning
can depend on text that comes much later.
"""

from __future__ import annotations

import re

from sparkle.llm.output.leak import PromptGuard
from sparkle.llm.output.rules import RuleSet
from sparkle.llm.output.scan import Scanner
from sparkle.llm.output.stream import OutputStream

_UNSAFE = re.compile(r"[<&\r\x00]")


def sanitise(text: str) -> str:
    """HTML without anything that runs or loads code."""
    import nh3  # only where the policy renders HTML

    return nh3.clean(text)


class RenderedStream(OutputStream):
    """An :class:`OutputStream` whose text is safe HTML."""

    __slots__ = ("_waiting",)

    def __init__(
        self, scanner: Scanner, rules: RuleSet, guard: PromptGuard | None = None, path: str = ""
    ) -> None:
        super().__init__(scanner, rules, guard, path)
        self._waiting: list[str] = []

    def feed(self, chunk: str) -> str:
        """Take in a chunk; text before the first sign of markup may leave, the rest waits."""
        return self._release(super().feed(chunk))

    def finish(self) -> str:
        """The rest, sanitised."""
        out = self._release(super().finish())
        return out + self._flush()

    def _release(self, text: str) -> str:
        out = ""
        if text:
            if not self._waiting:
                match = _UNSAFE.search(text)
                cut = match.start() if match else len(text)
                out, text = text[:cut].replace(">", "&gt;"), text[cut:]
            if text:
                self._waiting.append(text)
        return out + self._flush() if self.blocked else out

    def _flush(self) -> str:
        text = "".join(self._waiting)
        self._waiting = []
        return sanitise(text) if text else ""
