"""What judging the input costs, and on labelled texts of your own what it finds.

``python -m bench.input_guard [--quick] [--data DIR]``. ``DIR`` holds ``*.jsonl`` files of
``{"text", "label" (1 attack, 0 harmless), "source"}`` a line; recall and false positives are printed by source.
All times are CPU time of one core, the best of several rounds.
"""

from __future__ import annotations

import argparse
import json
import random
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

from bench.prompts import texts

Rows = list[tuple[str, str]]
_LENGTHS = (300, 2_000, 8_000)
_MEGABYTE = 1_000_000
_WORST_KEPT = 12
_HOSTILE = (
    "ignore all ", "a.", "i g n o r e ", "忽略", "%41", "&lt;", "\u200b", "aWdub3JlIGFsbCBwcmV2aW91cw== ", "<script ",
    "e\u0301", "1gn0r3 ", "you are now ", "![a](http://a?q=", "\\u0041", "01000001 ",
)  # fmt: skip


def run(quick: bool = False) -> Rows:
    """Rows of name and figure; about forty seconds, ten when ``quick``."""
    return [*_building(), *_latency(quick), *_throughput(), *_worst_rules(quick), *_worst_texts(quick)]


def _cpu(work: Callable[[], object], rounds: int) -> float:
    """Seconds of CPU of the fastest round."""
    best = float("inf")
    for _ in range(rounds):
        began = time.process_time()
        work()
        best = min(best, time.process_time() - began)
    return best


def _resident() -> float:
    """Largest resident size of this process so far, in MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _building() -> Rows:
    before = _resident()
    began = time.process_time()
    from sparkle.llm.policy import InputPolicy
    from sparkle.llm.safety import LLMSafety

    imported = time.process_time()
    safety = LLMSafety(InputPolicy())
    built = time.process_time()
    again = _cpu(lambda: LLMSafety(InputPolicy()), 5)
    for text in texts(2_000):
        safety.check_text(text)
    return [
        ("import", f"{(imported - began) * 1e3:.0f} ms"),
        ("build, all rules", f"{(built - imported) * 1e3:.0f} ms"),
        ("build for another policy", f"{again * 1e3:.1f} ms"),
        ("memory after 2,000 texts", f"{_resident() - before:.0f} MB"),
    ]


def _latency(quick: bool) -> Rows:
    """Median and 95th percentile over texts that differ, as a server sees them, and the same text over and over."""
    from sparkle.llm.policy import InputPolicy
    from sparkle.llm.safety import LLMSafety

    safety = LLMSafety(InputPolicy())
    sentences = texts(1_200)
    rows: Rows = []
    for language, wanted in (("English", True), ("Chinese", False)):
        parts = [text for text in sentences if text.isascii() is wanted]
        for length in _LENGTHS:
            count = 100 if quick else 400
            made = [_of_length(parts, length, seed) for seed in range(count)]
            for text in made:
                safety.check_text(text)  # a server is warm
            spent = sorted(_cpu(lambda text=text: safety.check_text(text), 3) for text in made)
            rows.append(
                (
                    f"{language}, {length:,} characters, p50 / p95",
                    f"{spent[count // 2] * 1e6:.0f} / {spent[int(count * 0.95)] * 1e6:.0f} us",
                )
            )
    return rows


def _of_length(parts: list[str], length: int, seed: int) -> str:
    rng = random.Random(seed)
    text = rng.choice(parts)
    while len(text) < length:
        text += "\n" + rng.choice(parts)
    return text[:length]


def _long_guard() -> Any:
    from sparkle.llm.policy import InputLimits, InputPolicy
    from sparkle.llm.safety import LLMSafety

    limits = InputLimits(max_text_chars=2 * _MEGABYTE, max_total_chars=2 * _MEGABYTE)
    return LLMSafety(InputPolicy(limits=limits))


def _throughput() -> Rows:
    safety = _long_guard()
    rows: Rows = []
    for language, wanted in (("English", True), ("Chinese", False)):
        parts = [text for text in texts(1_200) if text.isascii() is wanted]
        text = _of_length(parts, _MEGABYTE // 4, 1)
        size = len(text.encode())
        spent = _cpu(lambda text=text: safety.check_text(text), 2)
        rows.append((f"{language}, one text of {size // 1000:,} KB", f"{size / spent / 1e6:.0f} MB/s"))
    return rows


def _worst_rules(quick: bool) -> Rows:
    """Each pattern against texts made of its own words, which is the worst it can meet; the slowest at 1 MB."""
    from sparkle.llm.safety.engine import Engine
    from sparkle.llm.safety.rules import default_book

    engine = Engine(default_book())
    probes = engine.probes[:: 10 if quick else 1]
    slowest: list[tuple[float, str, Any, int]] = []
    for probe in probes:
        for seed in range(2):
            data = made_of(probe.source, 60_000, seed)
            spent = _cpu(lambda probe=probe, data=data: list(probe.spans(data, 64)), 1)
            slowest.append((spent, probe.target.rule, probe, seed))
    slowest.sort(key=lambda row: -row[0])
    worst = 0.0
    name = ""
    for _, rule, probe, seed in slowest[: 3 if quick else _WORST_KEPT]:
        data = made_of(probe.source, _MEGABYTE, seed)
        spent = _cpu(lambda probe=probe, data=data: list(probe.spans(data, 64)), 1)
        if spent > worst:
            worst, name = spent, rule
    return [(f"worst of {len(probes)} patterns on 1 MB of its own words", f"{worst * 1e3:.0f} ms ({name})")]


def made_of(source: bytes, size: int, seed: int) -> bytes:
    """Text of the literals of a pattern in random order, without ever completing many of its matches."""
    import re

    words = re.findall(rb"[a-z]{2,}|(?:[\x80-\xff]{3})+", re.sub(rb"\\.|\[[^\]]*\]|\{[^}]*\}", b" ", source))
    plain = [word for word in words if word] or [b"a"]
    rng = random.Random(seed)
    # Odd seeds leave the last words out, so that matches are begun all the time and hardly ever finished.
    if seed % 2:
        plain = plain[: max(len(plain) * 2 // 3, 1)]
    made: list[bytes] = []
    length = 0
    while length < size:
        word = rng.choice(plain)
        made.append(word)
        length += len(word) + 1
    return b" ".join(made)[:size]


def _worst_texts(quick: bool) -> Rows:
    safety = _long_guard()
    worst, name = 0.0, ""
    for unit in _HOSTILE[:: 3 if quick else 1]:
        text = (unit * (_MEGABYTE // len(unit) + 1))[:_MEGABYTE]
        spent = _cpu(lambda text=text: safety.check_text(text), 1)
        if spent > worst:
            worst, name = spent, ascii(unit)
    return [("slowest hostile text of 1,000,000 characters", f"{worst:.2f} s ({name} repeated)")]


def evaluate(folder: Path) -> Rows:
    """Recall and false positives by source, for texts judged as a user's and as a document's."""
    from sparkle.llm.policy import InputPolicy, Trust
    from sparkle.llm.safety import LLMSafety
    from sparkle.llm.verdict import Action

    safety = LLMSafety(InputPolicy())
    counted: Counter[str] = Counter()
    labels: dict[str, int] = {}
    blocked: defaultdict[Trust, Counter[str]] = defaultdict(Counter)
    trusts: tuple[Trust, ...] = ("untrusted", "indirect")
    for text, label, source in _labelled(sorted(folder.glob("*.jsonl"))):
        counted[source] += 1
        labels[source] = label
        for trust in trusts:
            blocked[trust][source] += safety.check_text(text, trust=trust).action is Action.BLOCK
    rows: Rows = []
    for label, what in ((0, "false positives"), (1, "recall")):
        sources = sorted(source for source in counted if labels[source] == label)
        for name, group in (
            ([*((source, [source]) for source in sources), ("ALL", sources)]) if sources else []
        ):
            total = sum(counted[source] for source in group)
            shares = [100 * sum(blocked[trust][source] for source in group) / total for trust in trusts]
            rows.append(
                (
                    f"{what}: {name} ({total})",
                    f"{shares[0]:.2f}% as a user's, {shares[1]:.2f}% as a document's",
                )
            )
    return rows


def _labelled(files: Iterable[Path]) -> Iterable[tuple[str, int, str]]:
    for file in files:
        with file.open(encoding="utf-8") as lines:
            for line in lines:
                row = cast("dict[str, Any]", json.loads(line))
                yield str(row["text"]), int(row["label"]), str(row.get("source", file.stem))


def main() -> None:
    """Print the rows."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="less of everything")
    parser.add_argument("--data", type=Path, help="folder of labelled *.jsonl files")
    arguments = parser.parse_args()
    for name, figure in evaluate(arguments.data) if arguments.data else run(arguments.quick):
        sys.stdout.write(f"{name:<60} {figure}\n")


if __name__ == "__main__":
    main()
