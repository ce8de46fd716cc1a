"""The output guard: speed, worst cases and leaks. ``python -m bench.output_guard [--quick] [--cuts N]``.

- MB/s: harmless answers of 16 KB, UTF-8 bytes over processor seconds of one core, best of several runs.
- Microseconds per streamed chunk of a few characters, all rules on.
- Leaks: texts with planted values of every rule, cut at random; a leak is any text that differs from what leaves of the
  whole text, or that holds a planted value. Cuts are counted one by one.
- Worst case: 1 MB (UTF-8) of each rule's own examples and near misses in turn, of each near miss alone, of signs made
  to hurt, and of signs that never repeat. ``--search`` looks for worse ones among small changes (some minutes).
"""

from __future__ import annotations

import argparse
import random
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from bench import output_dense
from bench.output_cuts import CANARY, SYSTEM_PROMPT, planted_text, random_cuts, secret_parts
from sparkle.llm.output import OutputValidator, PromptGuard
from sparkle.llm.output.rule_files import load_rule_files
from sparkle.llm.output.samples import expand
from sparkle.llm.policy import OutputPolicy

Rows = list[tuple[str, str]]
_ANSWER = 16_000
_CUTS = 1_000_000
_MOST_SECONDS = 0.2
_WORDS = ["The", " gateway", " routes", " each", " request", " to", " a", " model", " and", " returns"]
_WORDS_ZH = ["网关", "把每", "个请", "求交", "给模", "型，", "然后", "返回", "结果", "。"]
# One sign or a few, repeated: what makes careless patterns slow.
_NASTY = {
    "a": "a",
    "digits": "4",
    "digits and spaces": "1 ",
    "groups of digits": "4111 1111-",
    "mail signs": "a@",
    "dots": "a.a@a.",
    "open elements": "<a ",
    "closed elements": "<script>",
    "backticks": "`<b` ``",
    "fences": "```\n<b>\n```\n",
    "entities": "<a &#106;",
    "key words": "password=",
    "words about keys": "key: token: ",
    "quotes": '密码："a1!b ',
    "key headers": "-----BEGIN PRIVATE KEY-----\n",
    "key bodies": "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkqhkiG9w0BAQEFAASCBKc\n",
    "invisible characters": "1\u200b",
    "full-width digits": "１３８",
    "colons": "a1:b2:",
    "phone words": "phone 1 ",
    "plus signs": "+1 (2) ",
    "prefixes": "sk-ghp_AKIA",
    "one line of JSON": '{"k":[1,2,"x"]},',
}


def _best(work: Callable[[], object], runs: int) -> float:
    """Processor seconds of the fastest run."""
    best = float("inf")
    for _ in range(runs):
        began = time.thread_time()
        work()
        best = min(best, time.thread_time() - began)
    return best


def _answers(sentences: list[str], rng: random.Random, count: int) -> list[str]:
    answers: list[str] = []
    for _ in range(count):
        parts: list[str] = []
        size = 0
        while size < _ANSWER:
            part = rng.choice(sentences)
            parts.append(part if part.endswith("\n") else part + rng.choice((" ", " ", "\n\n")))
            size += len(parts[-1].encode())
        answers.append("".join(parts))
    return answers


def speed(quick: bool) -> Rows:
    """MB/s by kind of text, without and with a prompt to look for."""
    rng = random.Random(11)
    path = Path(__file__).with_name("output_texts.yaml")
    kinds = msgspec.yaml.decode(path.read_bytes(), type=dict[str, list[str]])
    validator = OutputValidator(OutputPolicy())
    prompt = validator.prompt_guard([SYSTEM_PROMPT * 6], CANARY)
    count, runs = (4, 3) if quick else (20, 9)
    rows: Rows = []
    totals = [0.0, 0.0, 0.0]
    for kind, sentences in [*kinds.items(), ("mixed", [s for part in kinds.values() for s in part])]:
        answers = _answers(sentences, rng, count)
        size = sum(len(answer.encode()) for answer in answers) / 1e6
        plain = _best(lambda a=answers: [validator.check_text(text) for text in a], runs)
        guarded = _best(lambda a=answers: [validator.check_text(text, prompt=prompt) for text in a], runs)
        totals = [totals[0] + size, totals[1] + plain, totals[2] + guarded]
        rows.append(
            (f"{kind}, MB/s (with a prompt to look for)", f"{size / plain:.0f} ({size / guarded:.0f})")
        )
    rows.append(("all of these, MB/s", f"{totals[0] / totals[1]:.0f} ({totals[0] / totals[2]:.0f})"))
    return rows


def streaming(quick: bool) -> Rows:
    """Microseconds per chunk of an answer of 60 chunks, its stream's making and end included."""
    validator = OutputValidator(OutputPolicy())
    prompt = validator.prompt_guard([SYSTEM_PROMPT * 6], CANARY)
    times = 50 if quick else 400

    def answer(words: list[str], guard: PromptGuard | None) -> None:
        stream = validator.open_stream(prompt=guard)
        for index in range(60):
            stream.feed(words[index % 10])
        stream.finish()

    rows: Rows = []
    for name, words in (("English", _WORDS), ("Chinese", _WORDS_ZH)):
        without = _best(lambda w=words: [answer(w, None) for _ in range(times)], 7) / times / 60
        guarded = _best(lambda w=words: [answer(w, prompt) for _ in range(times)], 7) / times / 60
        rows.append(
            (f"streamed chunk, {name}, us (with a prompt)", f"{without * 1e6:.1f} ({guarded * 1e6:.1f})")
        )
    first = validator.open_stream(prompt=prompt).feed("The")
    rows.append(("characters held of a first chunk 'The'", str(3 - len(first))))
    return rows


def leaks(cuts: int, seed: int = 2026) -> Rows:
    """Count leaks over at least ``cuts`` cuts."""
    validator = OutputValidator(OutputPolicy())
    prompt = validator.prompt_guard([SYSTEM_PROMPT], CANARY)
    done = texts = values = different = leaked = 0
    while done < cuts:
        rng = random.Random(seed + texts)
        planted = planted_text(rng, parts=rng.choice((3, 8, 20)))
        texts += 1
        values += len(planted.values)
        whole = validator.check_text(planted.text, prompt=prompt).text
        parts = [p for p in secret_parts(validator, planted.text) if planted.text.count(p) == 1]
        for _ in range(4):
            chunks = random_cuts(planted.text, rng)
            stream = validator.open_stream(prompt=prompt)
            out = "".join([*map(stream.feed, chunks), stream.finish()])
            done += max(0, len(chunks) - 1)
            different += out != whole
            leaked += any(part in out for part in parts)
    return [
        ("random cuts counted", f"{done:,} in {texts:,} texts with {values:,} planted values"),
        ("streams that differ from the whole text", str(different)),
        ("streams that leak a value", str(leaked)),
    ]


def worst_cases(quick: bool) -> Rows:
    """Milliseconds for 1 MB (quick: 0.1 MB) of the hardest texts: each rule's worst, signs, growth with the size."""
    validator = OutputValidator(OutputPolicy())
    size = 100_000 if quick else 1_000_000
    texts = {("signs", name): sign for name, sign in _NASTY.items()}
    for rule in load_rule_files().rules:
        for kind, templates in (("examples", rule.examples), ("near misses", rule.counterexamples)):
            if templates:
                texts[rule.id, kind] = " ".join(expand(t, random.Random(5)) for t in templates) + "\n"
    took: dict[str, tuple[float, str]] = {}
    growth = 0.0
    for (name, kind), unit in texts.items():
        text = unit * (size // len(unit.encode()) + 1)
        half = _best(lambda t=text: validator.check_text(t[: len(t) // 2]), 2)
        full = _best(lambda t=text: validator.check_text(t), 4)
        growth = max(growth, full / half if half > 0.005 else 0.0)
        label = f"{name}, {kind}" if name == "signs" else name
        took[label] = max(took.get(label, (0.0, "")), (full, kind))
    for name, template, text in output_dense.alone(size):
        label = f"{name}, one near miss alone"
        took[label] = max(
            took.get(label, (0.0, "")), (_best(lambda t=text: validator.check_text(t), 3), template)
        )
    for name, text in output_dense.varied(size).items():
        took[f"never the same, {name}"] = _best(lambda t=text: validator.check_text(t), 3), "signs"
    over = sum(took[name][0] > _MOST_SECONDS for name in took)
    rows = [
        (f"worst case of {name} at {size / 1e6:g} MB ({kind}), ms", f"{seconds * 1e3:.0f}")
        for name, (seconds, kind) in sorted(took.items(), key=lambda item: -item[1][0])
    ]
    rows.append((f"worst cases above {_MOST_SECONDS * 1e3:.0f} ms, of {len(took)}", str(over)))
    rows.append((f"worst growth for twice the size, of {len(texts)} hard texts", f"x{growth:.1f}"))
    return rows


def search(quick: bool, seed: int) -> Rows:
    """Milliseconds for 1 MB (quick: 0.1 MB) of the slowest small texts that can be found, worst first."""
    validator = OutputValidator(OutputPolicy())
    found = output_dense.search(
        lambda text: _best(lambda: validator.check_text(text), 1), 100_000 if quick else 1_000_000, seed
    )
    return [(f"{name}: {what}", f"{took * 1e3:.0f}") for took, name, what in sorted(found, reverse=True)[:60]]


def run(quick: bool) -> Rows:
    """All figures; ``quick`` takes less of everything."""
    return [*speed(quick), *streaming(quick), *leaks(20_000 if quick else _CUTS), *worst_cases(quick)]


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--cuts", type=int, default=0, help="only count leaks, over at least so many cuts")
    parser.add_argument("--worst", action="store_true", help="only the worst cases")
    parser.add_argument("--search", action="store_true", help="only look for worse ones, from the seed on")
    parser.add_argument("--seed", type=int, default=2026)
    options = parser.parse_args()
    if options.search:
        rows = search(options.quick, options.seed)
    elif options.worst:
        rows = worst_cases(options.quick)
    else:
        rows = leaks(options.cuts, options.seed) if options.cuts else run(options.quick)
    for name, figure in rows:
        print(f"{name:78} {figure}")


if __name__ == "__main__":
    main()
