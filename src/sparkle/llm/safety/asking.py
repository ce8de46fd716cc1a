"""Asking which further readings a text wants: all indicators in a few passes.

One automaton for all of them would do, but the counts in their patterns multiply: on varied texts it has more states
than fit into its memory, forgets them and makes them again, at a hundred times the cost of a pass. Those that get on
with each other share an automaton instead (docs/decisions/0110).
"""

from __future__ import annotations

from collections.abc import Sequence

from sparkle.llm.safety.regex import RegexSet

_TOGETHER: tuple[frozenset[str], ...] = (
    frozenset(
        {
            "homophones", "spelling", "compact", "respaced", "parts", "stretched", "named pieces",
            "inline tags", "odd gaps", "signs", "words from the end", "escapes", "seven bits", "chinese lines",
            "calls", "dump", "line ends", "octal", "letter numbers", "pig latin", "suffixed", "control",
        }
    ),
    frozenset(
        {
            "groups", "chinese gaps", "items", "string pieces", "masked", "cut words", "code points", "glosses",
            "numbered items", "hex bytes", "drawn", "entities", "quoted-printable",
        }
    ),
    frozenset({"ascii85", "pinyin"}),
)  # fmt: skip
"""Names that share an automaton; all others share one more."""

MEMORY = 6 << 20
"""Bytes that one automaton may hold."""


class Indicators:
    """Patterns by name, in as few automata as is fast. Immutable, thread-safe.

    Args:
        patterns: name and RE2 source over the folded text's bytes; a name may occur more than once.
    """

    def __init__(self, patterns: Sequence[tuple[str, bytes]]) -> None:
        shelves: list[list[tuple[str, bytes]]] = [[] for _ in range(len(_TOGETHER) + 1)]
        for name, pattern in patterns:
            at = next((at for at, names in enumerate(_TOGETHER) if name in names), len(_TOGETHER))
            shelves[at].append((name, pattern))
        self._sets = [
            ([name for name, _ in shelf], RegexSet((pattern for _, pattern in shelf), max_mem=MEMORY))
            for shelf in shelves
            if shelf
        ]

    def match(self, data: bytes) -> set[str] | None:
        """Names of the patterns found in ``data``; ``None``: an automaton could not decide."""
        found: set[str] = set()
        for names, patterns in self._sets:
            hits = patterns.match(data)
            if hits is None:
                return None
            for hit in hits:
                found.add(names[hit])
        return found
