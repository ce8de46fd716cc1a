"""Texts with planted values, and ways to cut them: shared by the property test and the benchmark of the output guard.

Everything comes from a seeded generator. A text is a chain of parts in English and Chinese: prose, code, numbers,
Markdown, a planted value of any rule, or a near miss of one.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

from sparkle.llm.output import OutputValidator
from sparkle.llm.output.rule_files import load_rule_files
from sparkle.llm.output.samples import expand
from sparkle.llm.verdict import Mode

SYSTEM_PROMPT = (
    "You are Xinghuo, a patient tutor for university students. Never reveal the answer key of an exam before the "
    "student has tried. 你是星火学习伙伴，面向中国大学生。不要直接给出考试答案，先引导学生自己思考，"
    "再逐步讲解。Always end with a question."
)
CANARY = "xh-canary-7d1f09c2ab"

_FILLERS = (
    "The derivative of x^2 is 2x, so the slope at x = 3 is 6.",
    "Sure! Here is a short answer:",
    "Let me think step by step. 12 + 30 = 42, and 42 * 2 = 84.",
    "在 2024 年 3 月 15 日，第 3 章共 10 节，约 45.6% 的学生完成了练习。",
    "这个函数会调用 exec()，请小心 rm -rf 这样的命令。",
    "死锁和饥饿是两个不同的概念；性质 (2) 见第 12-13 页。",
    "```python\nfor i in range(10):\n    print(i, end=' ')\n```\n",
    "| a | b |\n|---|---|\n| 1 | 2.5 |\n",
    "Use `<script>` tags with care; `onclick=` is an attribute.",
    "0 1 1 2 3 5 8 13 21 34 55 89 144 233 377 610 987 1597",
    "git commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
    "version 3.11.7, ISBN 978-7-302-42328-7, pages 100-120",
    "答案是：",
    " and ",
    "，",
    ": ",
    "\n",
    "\n\n",
    " ",
    "- ",
    "**",
    "`",
    '"',
    "(",
    "<",
    "> ",
    "= ",
    "+",
    "1 ",
    "20",
    "key: ",
    "密码是",
    "Bearer ",
    "phone ",
    "\u200b",
    "😀",
    "１２",
    "@",
    "sk-",
    "-----BEGIN RSA PRIVATE KEY-----\n",
    "x" * 300 + ",y,",
)


@dataclass(frozen=True, slots=True)
class Planted:
    """A text and the values that stand in it, with the rules they were made for."""

    text: str
    values: tuple[tuple[str, str], ...]


def planted_text(rng: random.Random, *, parts: int = 8) -> Planted:
    """A random text of about ``parts`` parts."""
    rules = [r for r in load_rule_files().rules if r.examples]
    chosen: list[str] = []
    values: list[tuple[str, str]] = []
    for _ in range(rng.randint(1, parts)):
        draw = rng.random()
        if draw < 0.35:
            rule = rng.choice(rules)
            value = expand(rng.choice(rule.examples), rng)
            values.append((rule.id, value))
            chosen.append(value)
        elif draw < 0.45:
            rule = rng.choice(rules)
            if rule.counterexamples:
                chosen.append(expand(rng.choice(rule.counterexamples), rng))
        elif draw < 0.5:
            start = rng.randrange(len(SYSTEM_PROMPT))
            chosen.append(SYSTEM_PROMPT[start : start + rng.choice((10, 30, 50, 70, 150))])
        elif draw < 0.51:
            chosen.append(CANARY[: rng.randint(3, len(CANARY))])
        else:
            chosen.append(rng.choice(_FILLERS))
        if rng.random() < 0.6:
            chosen.append(rng.choice((" ", " ", "\n", "，", ". ", "  ")))
    return Planted("".join(chosen), tuple(values))


def random_cuts(text: str, rng: random.Random) -> list[str]:
    """A text in chunks of random sizes: mostly small, as providers send them, sometimes one code point."""
    style = rng.random()
    chunks: list[str] = []
    at = 0
    while at < len(text):
        size = 1 if style < 0.25 else rng.randint(1, 6) if style < 0.75 else rng.choice((1, 2, 3, 8, 20, 60))
        chunks.append(text[at : at + size])
        at += size
    return chunks


def secret_parts(validator: OutputValidator, text: str) -> list[str]:
    """The values in a text that the guard's enforced rules about data name, longer than a chance."""
    findings = validator.check_text(text).verdict.findings
    spans = [f for f in findings if f.mode is not Mode.WATCH and f.category.startswith(("pii.", "secret."))]
    return [text[f.start : f.end] for f in spans if f.end - f.start >= 6]
