"""Every command and snippet in the how-to guides runs. A file of its own, so that two workers share the pages."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.reader import follow

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "how-to").glob("*.md"))


@pytest.mark.timeout(300)  # seconds on a quiet machine; the local model is slow beside other work
@pytest.mark.parametrize("guide", GUIDES, ids=lambda page: page.stem)
def test_a_guide_does_what_it_says(guide: Path, tmp_path: Path) -> None:
    follow(guide, tmp_path, ROOT)
