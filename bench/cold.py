"""What the checks of one request cost when the processor's caches hold something else.

In a loop over one check its tables stay in the caches; in a gateway there is a whole request between two checks.
Between two timed calls this reads a few megabytes of other memory and so pushes the tables out.
Run: ``python -m bench.cold``
"""

from __future__ import annotations

import argparse
import time
import zlib
from collections.abc import Callable, Sequence

from bench import prompts, screen
from bench.report import Table

_BETWEEN_MB = (0, 1, 4, 16)
_ANSWER = "The gateway routes each request to a model and returns" * 6


def run(texts: Sequence[str]) -> Table:
    """CPU microseconds per text for each check, by megabytes read between two calls."""
    columns = ("check", *(f"{mb} MB between" if mb else "in a loop" for mb in _BETWEEN_MB))
    rows = tuple(
        (name, *(f"{_measure(check, texts, mb):.1f}" for mb in _BETWEEN_MB))
        for name, check in _checks().items()
    )
    return Table(
        f"CPU us per text, {len(texts)} texts of 100 to 600 characters in two languages", columns, rows
    )


def _measure(check: Callable[[str], object], texts: Sequence[str], between_mb: int) -> float:
    other = bytes(between_mb * 1024 * 1024)
    for text in texts[:50]:
        check(text)
    spent = 0
    for text in texts:
        zlib.crc32(other)
        began = time.thread_time_ns()
        check(text)
        spent += time.thread_time_ns() - began
    return spent / len(texts) / 1000


def _checks() -> dict[str, Callable[[str], object]]:
    # Imported here: reading the help must not load the rules.
    from sparkle.llm.output import OutputValidator
    from sparkle.llm.policy import Policy
    from sparkle.llm.quota import TokenCounter
    from sparkle.llm.safety import LLMSafety

    policy = Policy()
    safety, output, tokens = LLMSafety(policy.input), OutputValidator(policy.output), TokenCounter()

    def messages(text: str) -> list[dict[str, str]]:
        return [
            {"role": "system", "content": "You are a helpful assistant that answers briefly."},
            {"role": "user", "content": text},
        ]

    return {
        "input guard, two messages": lambda text: safety.check_messages(messages(text), None),
        "token count, two messages": lambda text: tokens.count_messages(messages(text), prompts.MODEL, None),
        "output guard, the text": lambda text: output.check_text(text),
        "output guard, an answer of 60 words": lambda text: output.check_text(_ANSWER),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--texts", type=int, default=400)
    screen.show(screen.console(), run(prompts.texts(parser.parse_args().texts)))


if __name__ == "__main__":
    main()
