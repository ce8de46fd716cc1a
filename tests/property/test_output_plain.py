"""Plain Markdown ends where a pattern with looks ahead, which says the same more directly, ends."""

from __future__ import annotations

import re

from hypothesis import example, given, settings
from hypothesis import strategies as st

from sparkle.llm.output.markdown import LONGEST_LINE, plain_end

REFERENCE = re.compile(
    r"(?:```[^`\n]*+\n(?:[^`\n]*+\n)*+```\n"
    r"|[^`<~\n\\]*+(?:(?:`[^`\n|]{1,200}+`(?!`)|<(?![A-Za-z/!?]))[^`<~\n\\]*+)*+\n)*+"
)
PARTS = [
    "`",
    "``",
    "```",
    "```\n",
    "`a`",
    "`<b>`",
    "<",
    "< ",
    "<b",
    "<<",
    "</",
    "<é",
    "~",
    "\\",
    "|",
    "\n",
    "\n",
    "a",
    "中文",
    "é",
]


@given(st.lists(st.sampled_from([*PARTS, "`" + "é" * 200 + "`", "`" + "x" * 201 + "`"]), max_size=30))
@example(["`a`", "`a`", "\n"])
@example(["`a`", "<", "`a`", "\n"])
@settings(max_examples=400, deadline=None)
def test_plain_markdown_ends_where_the_pattern_with_looks_ends(parts: list[str]) -> None:
    text = "".join(parts)
    data = text.encode()
    match = REFERENCE.match(text)
    assert match is not None
    assert data[: plain_end(data, 0, len(data))].decode() == match.group()


def test_a_line_that_is_too_long_is_not_passed_over() -> None:
    data = b"short\n" + b"x" * (LONGEST_LINE + 1) + b"\nshort\n"
    assert plain_end(data, 0, len(data)) == len(b"short\n")
