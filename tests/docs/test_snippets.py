"""Every command and snippet in the documentation runs, against the real server (the how-to guides: see beside)."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.markdown_blocks import blocks_of, pages
from tests.docs.reader import follow

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)
HERE = [page for page in PAGES if page.parent.name != "how-to"]


@pytest.mark.timeout(300)  # seconds on a quiet machine; the local model is slow beside other work
@pytest.mark.parametrize("page", HERE, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    follow(page, tmp_path, ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_fence_names_its_language(page: Path) -> None:
    nameless = [block.where for block in blocks_of(page) if not block.language]
    assert not nameless, f"write ```text where nothing is to be run: {nameless}"
