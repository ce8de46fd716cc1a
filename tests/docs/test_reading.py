"""The reader of the documentation notices what is wrong: without this, a test of the pages would prove nothing."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.docs.generate import names_in, renewed
from tests.docs.markdown_blocks import PageError, blocks_of
from tests.docs.reader import SnippetError, read_page
from tests.docs.record_demo import BEGIN, END, placed

ROOT = Path(__file__).parents[2]


def _page(folder: Path, text: str) -> Path:
    page = folder / "page.md"
    page.write_text(text, "utf-8")
    return page


def _read(folder: Path, text: str) -> None:
    workplace = folder / "work"
    workplace.mkdir()
    read_page(blocks_of(_page(folder, text)), workplace, ROOT)


def test_blocks_run_in_order_in_one_folder_with_one_environment(tmp_path: Path) -> None:
    _read(
        tmp_path,
        "```bash\nexport NAME=sparkle\necho hello > greeting\n```\n\n"
        "```bash\necho $(cat greeting) $NAME\n```\n\n<!-- prints -->\n```text\nhello sparkle\n```\n",
    )


def test_three_dots_stand_for_anything(tmp_path: Path) -> None:
    _read(
        tmp_path,
        "```python\nprint('one\\ntwo 17 three')\n```\n<!-- prints -->\n```text\none\ntwo ... three\n```\n",
    )


def test_a_console_block_is_compared_command_by_command(tmp_path: Path) -> None:
    _read(tmp_path, "```console\n$ echo one\none\n$ echo two\ntwo\n```\n")
    with pytest.raises(SnippetError, match=r"page\.md:1"):
        read_page(blocks_of(_page(tmp_path, "```console\n$ echo one\nuno\n```\n")), tmp_path, ROOT)


def test_a_command_that_fails_is_reported_with_page_and_line(tmp_path: Path) -> None:
    with pytest.raises(SnippetError, match=r"page\.md:3: exit code 1"):
        _read(tmp_path, "Text.\n\n```bash\nfalse\n```\n")


def test_a_command_that_must_fail_and_does_not_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SnippetError, match="exit code 0, expected 1"):
        _read(tmp_path, "<!-- exit: 1 -->\n```bash\ntrue\n```\n")


def test_other_output_than_the_page_shows_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SnippetError, match="the page shows"):
        _read(tmp_path, "```bash\necho 2\n```\n<!-- prints -->\n```text\n1\n```\n")


def test_a_call_to_a_server_that_no_block_started_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SnippetError, match="the page has started none"):
        _read(tmp_path, "```bash\ncurl http://127.0.0.1:8000/healthz\n```\n")


def test_a_server_that_ends_at_once_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SnippetError, match="the server ended"):
        _read(tmp_path, "<!-- run: background -->\n```bash\necho not a server\n```\n")


def test_yaml_that_nobody_reads_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SnippetError, match="needs `file: NAME`"):
        _read(tmp_path, "```yaml\nversion: 1\n```\n")


def test_a_policy_with_an_error_is_reported(tmp_path: Path) -> None:
    with pytest.raises(SnippetError, match="exit code 1"):
        _read(tmp_path, "<!-- file: policy.yaml -->\n```yaml\nversion: 1\nimput: {}\n```\n")


def test_a_skipped_block_may_not_name_a_habit_that_does_not_exist(tmp_path: Path) -> None:
    _read(tmp_path, "<!-- run: no, long -->\n```bash\nmake help\n```\n")
    with pytest.raises(SnippetError, match="no `make coffee`"):
        read_page(
            blocks_of(_page(tmp_path, "<!-- run: no, long -->\n```bash\nmake coffee\n```\n")), tmp_path, ROOT
        )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("```bash\ntrue\n", "never closed"),
        ("<!-- run: no -->\n```bash\ntrue\n```\n", "no, REASON"),
        ("<!-- run: sometimes -->\n```bash\ntrue\n```\n", "no, REASON"),
        ("<!-- file: a -->\nText between.\n```bash\ntrue\n```\n", "directly above"),
        ("```bash\ntrue\n```\n<!-- prints -->\n", "before no block"),
    ],
)
def test_a_page_with_a_note_that_means_nothing_is_refused(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(PageError, match=problem):
        blocks_of(_page(tmp_path, text))


def test_generated_sections_are_replaced_and_the_rest_is_left_alone() -> None:
    text = "# Page\n<!-- generated:endpoints:begin -->\nold\n<!-- generated:endpoints:end -->\nmine\n"
    assert names_in(text) == ["endpoints"]
    new = renewed(text)
    assert "old" not in new
    assert "`GET /healthz`" in new
    assert new.startswith("# Page\n")
    assert new.endswith("-->\nmine\n")
    assert renewed(new) == new


def test_a_transcript_takes_the_place_of_the_one_before() -> None:
    once = placed(f"before\n{BEGIN}\n{END}\nafter\n", "first")
    assert placed(once, "second") == once.replace("first", "second")
    with pytest.raises(ValueError, match="needs"):
        placed("a page without a place", "text")
