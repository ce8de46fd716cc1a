"""The reference says what the code says, and every link leads somewhere."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import msgspec
import pytest
from tests.docs.generate import names_in, reference_pages, renewed
from tests.docs.markdown_blocks import pages
from tests.docs.reference_sections import SECTIONS

import sparkle
from sparkle.errors import SparkleError
from sparkle.llm.policy import AllowEntry, Policy
from sparkle.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = pages(ROOT)
_LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)|<img[^>]*src=\"([^\"]+)\"")
_FENCED = re.compile(r"^(`{3,}|~{3,}).*?^\1\s*$", re.DOTALL | re.MULTILINE)
_BAR = re.compile(r"(?<!\\)\|")
_BILINGUAL = ("README.md", "docs/tutorial/first-guarded-call.md", "docs/how-to/policy.md")


@pytest.mark.parametrize("page", reference_pages(), ids=lambda page: page.stem)
def test_a_reference_page_is_what_the_code_says(page: Path) -> None:
    text = page.read_text("utf-8")
    assert text == renewed(text), "run `python -m tests.docs.generate`"


def test_every_generated_section_stands_on_a_page() -> None:
    placed = [name for page in reference_pages() for name in names_in(page.read_text("utf-8"))]
    assert sorted(placed) == sorted(SECTIONS)


def test_every_public_name_is_explained_somewhere() -> None:
    written = "".join(page.read_text("utf-8") for page in (ROOT / "docs/reference").glob("*.md"))
    apart = (Settings, Policy, SparkleError)  # pages of their own, by field and by code
    names = [name for name in sparkle.__all__ if not _is_one_of(getattr(sparkle, name), apart)]
    assert not [name for name in names if f"### {name}\n" not in written]


def _is_one_of(value: object, kinds: tuple[type, ...]) -> bool:
    return isinstance(value, type) and issubclass(value, kinds)


def test_the_policy_page_names_every_field() -> None:
    page = (ROOT / "docs/reference/policy.md").read_text("utf-8")
    missing = [name for name in _field_names(Policy(), "") if f"`{name}`" not in page]
    missing += [name for name in AllowEntry.__struct_fields__ if f"`{name}`" not in page]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_within_the_repository_leads_somewhere(page: Path) -> None:
    broken: list[str] = []
    for match in _LINK.finditer(_FENCED.sub("", page.read_text("utf-8"))):
        target = next(group for group in match.groups() if group)
        if "://" in target or target.startswith("mailto:"):
            continue
        name, _, anchor = target.partition("#")
        file = (page.parent / unquote(name)).resolve() if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            broken.append(target)
    assert not broken


@pytest.mark.parametrize("name", _BILINGUAL)
def test_the_chinese_page_has_the_parts_of_the_english_one(name: str) -> None:
    english = ROOT / name
    chinese = english.with_suffix(".zh-CN.md")
    assert _shape(chinese) == _shape(english)


def test_no_page_is_left_out_of_the_index() -> None:
    index = (ROOT / "docs/README.md").read_text("utf-8")
    written = [
        page.relative_to(ROOT / "docs").as_posix()
        for page in (ROOT / "docs").rglob("*.md")
        if page.name != "README.md" and page.parent.name != "decisions"
    ]
    assert not [page for page in written if f"({page})" not in index]


def _field_names(value: Any, prefix: str) -> list[str]:
    if not isinstance(value, msgspec.Struct):
        return [prefix]
    inner = {name: getattr(value, name) for name in value.__struct_fields__}
    return [
        leaf
        for name, child in inner.items()
        for leaf in _field_names(child, f"{prefix}.{name}" if prefix else name)
    ]


def _anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives to a page's headings."""
    text = _FENCED.sub("", page.read_text("utf-8"))
    found: set[str] = set()
    for heading in re.findall(r"^#{1,6}\s+(.*)$", text, re.MULTILINE):
        plain = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).strip().lower()
        found.add(re.sub(r"[^\w\- ]", "", plain).replace(" ", "-"))
    return found


def _shape(page: Path) -> list[str]:
    """What must be equal in both languages: levels of headings, languages of blocks, rows of tables, in order."""
    shape: list[str] = []
    fence = ""
    for line in page.read_text("utf-8").splitlines():
        if fence:
            fence = "" if line.strip() == fence else fence
        elif opening := re.match(r"^(`{3,})(\w*)", line):
            fence = opening[1]
            shape.append(f"block {opening[2]}")
        elif heading := re.match(r"^(#{1,6}) ", line):
            shape.append(heading[1])
        elif line.startswith("|"):
            shape.append(f"row of {len(_BAR.findall(line)) - 1}")
    return shape
