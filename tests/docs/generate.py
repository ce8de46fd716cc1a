"""Writes the generated sections of the reference pages: ``python -m tests.docs.generate``.

Sections stand between ``<!-- generated:NAME:begin -->`` and ``<!-- generated:NAME:end -->``; a test fails while one of
them is not what the code says.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

from tests.docs.reference_sections import SECTIONS

ROOT = Path(__file__).parents[2]
REFERENCE = ROOT / "docs" / "reference"
_SECTION = re.compile(r"(<!-- generated:([a-z-]+):begin -->\n).*?(<!-- generated:\2:end -->)", re.DOTALL)


def renewed(text: str) -> str:
    """``text`` with every generated section as the code has it now.

    Raises:
        KeyError: A section of that name is not made here.
    """
    return _SECTION.sub(lambda m: f"{m[1]}{SECTIONS[m[2]]()}\n{m[3]}", text)


def names_in(text: str) -> list[str]:
    """Names of the generated sections of a page."""
    return [match[2] for match in _SECTION.finditer(text)]


def reference_pages() -> list[Path]:
    """The pages that may hold generated sections."""
    return sorted(REFERENCE.glob("*.md"))


def main() -> int:
    """Renew every page; says which changed."""
    for page in reference_pages():
        old = page.read_text("utf-8")
        new = renewed(old)
        if new != old:
            page.write_text(new, "utf-8")
            print(f"renewed {page.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
