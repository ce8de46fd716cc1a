"""Every command and snippet in the documentation runs, against the real server."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.markdown_blocks import RUNNABLE, Block, blocks_of, pages
from tests.docs.reader import read_page

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)


def _runs_something(blocks: list[Block]) -> bool:
    return any(block.language in RUNNABLE for block in blocks)


@pytest.mark.timeout(300)  # seconds on a quiet machine; the local model is slow beside other work
@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_does_what_it_says(page: Path, tmp_path: Path) -> None:
    blocks = blocks_of(page)
    if _runs_something(blocks):
        # A translation shows the same calls: the local model, which is slow beside other tests, answers one of the two.
        read_page(blocks, tmp_path, ROOT, local_model=not page.stem.endswith(".zh-CN"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_fence_names_its_language(page: Path) -> None:
    nameless = [block.where for block in blocks_of(page) if not block.language]
    assert not nameless, f"write ```text where nothing is to be run: {nameless}"
