"""Active content: what a browser would run is made harmless, what shows code is left alone."""

from __future__ import annotations

import pytest

from sparkle.llm.output import OutputValidator
from sparkle.llm.output.markdown import Markdown
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.verdict import Action

VALIDATOR = OutputValidator(OutputPolicy())
HTML = OutputValidator(OutputPolicy(render="html"))


def redacted(text: str) -> bool:
    return VALIDATOR.check_text(text).verdict.action is Action.REDACT


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<script>alert(1)</script>", "[REDACTED:html]alert(1)[REDACTED:html]"),
        ("a <script\nsrc='//x.y/z.js'\n> b", "a [REDACTED:html] b"),
        ("<img src=x onerror=alert(1)>", "<img src=x [REDACTED:html]=alert(1)>"),
        ("<img src=x OnError\n= 'alert(1)'>", "<img src=x [REDACTED:html]\n= 'alert(1)'>"),
        ("<svg/onload=alert(1)>", "<svg/[REDACTED:html]=alert(1)>"),
        ('<a title="> " onclick=x>', '<a title="> " [REDACTED:html]=x>'),
        ('<a href="java\nscript:alert(1)">', '<a href="java\n[REDACTED:html]alert(1)">'),
        ("[x](JaVaScRiPt:alert(1))", "[x]([REDACTED:html]alert(1))"),
        ("![i](data:text/html,hi)", "![i]([REDACTED:html],hi)"),
        ("点这里<iframe src=//x>。</iframe>", "点这里[REDACTED:html]。[REDACTED:html]"),
        ("<scr<script>ipt>x", "<scr[REDACTED:html]ipt>x"),
    ],
)
def test_the_active_part_is_cut_out(text: str, expected: str) -> None:
    assert VALIDATOR.check_text(text).text == expected
    stream = VALIDATOR.open_stream()
    assert "".join(map(stream.feed, text)) + stream.finish() == expected


@pytest.mark.parametrize(
    "text",
    [
        "```html\n<script>alert(1)</script>\n```",
        "~~~\n<iframe src=x>\n~~~\n",
        "````md\n```\n<script>\n```\n````",
        "```\n<script>",
        "Use `<script>` here",
        "Use ``<img onerror=`x`>`` here",
        "1. item\n   ```html\n   <script>alert(1)</script>\n   ```\n",
        '标签 `<iframe>`、`<object>` 与 `onclick="x"`。',
        "| tag |\n|---|\n| `<script>` |\n",
    ],
)
def test_shown_code_is_watched_and_stays(text: str) -> None:
    result = VALIDATOR.check_text(text)
    assert result.text == text
    assert result.verdict.action is Action.ALLOW


@pytest.mark.parametrize(
    "text",
    [
        "`<script>alert(1)</script>",  # never closed
        "`a\n`<script>` ",  # the first pair is on two lines: the element stands between
        "a ` b\n`<script>`",
        "\\`<script>`",  # an escaped backtick opens nothing
        "``<script>`",
        "| ` | <script> ` |",  # cells are split before code spans are read
        "<div>\n```\n<script>alert(1)</script>\n```\n</div>",  # inside an HTML block a fence is text
        "<pre>\n\n```\n<script>alert(1)</script>\n```",
        "<!-- \n\n```\n<script>",
        "<a title='`'><script>`",
        "> ```\n<script>",  # the quotation, and the fence in it, has ended
        "- ```\n<script>",
        "  ```\n  x\n<script>",  # so may the list item have
        "text\n    ```\n    <script>",  # indented so far it goes on with the paragraph
        "```\nx\n```\n<script>",
        "```a`b\n<script>\n```",
        "~~~\nx\n~~~~\n<script>",
        "````\n```\n````\n<script>",
        "`" + "x" * 300 + "\n<script>`",
    ],
)
def test_what_only_looks_like_code_is_redacted(text: str) -> None:
    assert redacted(text)
    stream = VALIDATOR.open_stream()
    out = "".join(map(stream.feed, text)) + stream.finish()
    assert out == VALIDATOR.check_text(text).text
    assert "<script" not in out


def test_an_element_in_open_inline_code_waits_for_its_end() -> None:
    stream = VALIDATOR.open_stream()
    assert stream.feed("Use `<script> tag") == "Use "
    assert stream.feed("` here.") == "`<script> tag` "
    stream = VALIDATOR.open_stream()
    assert stream.feed("Use `<script> tag") == "Use "
    assert stream.feed("\nnext ") == "`[REDACTED:html] tag\nnext "


@pytest.mark.parametrize(
    "text",
    [
        "if x<y and y>z: once = 1",
        "vector<int> v; map<string, set<int>> m;",
        "The onclick attribute and the JavaScript: book.",
        "a < script, b <3",
        "<https://example.com/?a=1>",
        "<br> and <b>bold</b> & &amp; &#20013;",
        "online = true; one=1; onset=2",
    ],
)
def test_harmless_signs_stay(text: str) -> None:
    assert VALIDATOR.check_text(text).text == text


def test_rendered_answers_are_sanitised_html() -> None:
    text = "Hi <b onclick=x>you</b> <script>alert(1)</script> 1 > 0 & `<iframe>` bob.li@corp.cn"
    result = HTML.check_text(text)
    assert "<script" not in result.text
    assert "<iframe" not in result.text
    assert "onclick" not in result.text
    assert result.text.startswith("Hi <b>you</b> ")
    assert "[REDACTED:email]" in result.text


def test_a_rendered_stream_flows_up_to_the_first_sign_of_markup() -> None:
    stream = HTML.open_stream()
    assert stream.feed("Sure, two > one. ") == "Sure, two &gt; one. "
    assert stream.feed("Then <b>this") == "Then "
    assert stream.feed("</b> and more. ") == ""
    assert stream.finish() == "<b>this</b> and more. "


def test_rendering_leaves_tool_arguments_alone() -> None:
    assert HTML.check_tool_arguments('{"a": "1 < 2 & 3"}').text == '{"a": "1 < 2 & 3"}'


def test_the_markdown_state_skips_what_changes_nothing_like_what_it_reads() -> None:
    text = "# T\n\npara `x` y\nmore ` here\n\n```py\na = `1`\n\n\n```\n<div>\n`q`\n\ntext\n" * 3
    steps = Markdown()
    for char in text:
        steps.advance(char)
    at_once = Markdown()
    at_once.advance(text)
    assert steps == at_once


def test_a_long_s_is_an_s_to_the_search_and_breaks_nothing() -> None:
    text = "a few words javaſcript:x and ſcript:y 中文 " * 40
    assert VALIDATOR.check_text(text).text == text
    linked = text + "[x](javascript:alert(1))"
    assert "javascript:alert" not in VALIDATOR.check_text(linked).text
