"""Reads the fenced blocks of a Markdown page and the notes that stand in HTML comments before them.

A note is a comment of the form ``<!-- name: value -->`` on the lines directly above a fence:

``run: no, REASON``   the block is not run; the reason is for the reader of the source
``run: background``   a bash block that starts a server; it is kept until the page ends or starts another
``file: NAME``        the block is written to this file instead of being run
``prints``            the block shows what the block before it prints; ``...`` stands for anything
``exit: N``           the exit code that a bash block ends with; 0 where nothing is said
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

RUNNABLE = frozenset({"bash", "python", "yaml", "console"})
"""Languages of which every block must be run, written to a file, or marked with the reason why not."""

_NOTE = re.compile(r"<!--\s*(run|file|prints|exit)\s*(?::\s*(.*?))?\s*-->")
_FENCE = re.compile(r"^(\s*)(`{3,}|~{3,})\s*([A-Za-z0-9_+-]*)\s*$")


class PageError(Exception):
    """A page cannot be read: an unknown note, a fence that is never closed."""


@dataclass(frozen=True, slots=True)
class Block:
    """One fenced block."""

    page: Path
    line: int
    """Line of the opening fence, from 1."""
    language: str
    text: str
    notes: dict[str, str]

    @property
    def where(self) -> str:
        """``page:line``, as editors jump to it."""
        return f"{self.page}:{self.line}"

    @property
    def skipped(self) -> bool:
        """Marked ``run: no``."""
        return self.notes.get("run", "").startswith("no")


def blocks_of(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order.

    Raises:
        PageError: a fence is never closed, ``run: no`` has no reason, or a note stands before no block.
    """
    lines = page.read_text("utf-8").splitlines()
    found: list[Block] = []
    notes: dict[str, str] = {}
    at = 0
    while at < len(lines):
        line = lines[at]
        fence = _FENCE.match(line)
        if fence is None:
            notes = _read_note(page, at, line, notes)
            at += 1
            continue
        indent, mark, language = fence.groups()
        end = next((i for i in range(at + 1, len(lines)) if lines[i].strip() == mark), None)
        if end is None:
            raise PageError(f"{page}:{at + 1}: this fence is never closed")
        body = [entry.removeprefix(indent) for entry in lines[at + 1 : end]]
        found.append(Block(page, at + 1, language, "\n".join(body) + "\n", notes))
        notes = {}
        at = end + 1
    if notes:
        raise PageError(f"{page}: a note stands before no block: {notes}")
    return found


def _read_note(page: Path, at: int, line: str, notes: dict[str, str]) -> dict[str, str]:
    note = _NOTE.fullmatch(line.strip())
    if note is None:
        if line.strip() and notes:
            raise PageError(f"{page}:{at + 1}: a note must stand directly above its block: {notes}")
        return notes
    name, value = note.group(1), note.group(2) or ""
    if name == "run" and value != "background" and not re.fullmatch(r"no, \S.*", value):
        raise PageError(f"{page}:{at + 1}: `run` is `background` or `no, REASON`, not {value!r}")
    return {**notes, name: value}


def pages(root: Path) -> list[Path]:
    """The pages that speak to users, in reading order: both READMEs and everything below ``docs``."""
    written = [*root.glob("README*.md"), root / "CONTRIBUTING.md", root / "SECURITY.md"]
    return sorted(page for page in written if page.exists()) + sorted((root / "docs").rglob("*.md"))
