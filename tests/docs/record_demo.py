"""Runs ``sparkle demo`` and puts what it prints into both READMEs: ``python -m tests.docs.record_demo``.

The transcript stands between ``<!-- demo:begin -->`` and ``<!-- demo:end -->``. Nothing in it is edited except
ports, which belong to the machine of the recording.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
READMES = (ROOT / "README.md", ROOT / "README.zh-CN.md")
BEGIN, END = "<!-- demo:begin -->", "<!-- demo:end -->"
_WIDTH = "110"
_SECONDS = 300


def record() -> str:
    """The transcript of one run.

    Raises:
        RuntimeError: The demo failed, or it says itself that something went wrong.
    """
    done = subprocess.run(
        [sys.executable, "-m", "sparkle.cli", "demo", "--no-keep"],
        cwd=ROOT,
        env={**_clean_environment(), "COLUMNS": _WIDTH, "NO_COLOR": "1", "TERM": "dumb"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=_SECONDS,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(f"the demo ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", done.stdout)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:8000", text)
    lines = [line.rstrip() for line in text.strip().splitlines()]
    if "it should not have" in text:
        raise RuntimeError(f"an attack passed:\n{text}")
    return "\n".join(lines)


def placed(page: str, transcript: str) -> str:
    """``page`` with ``transcript`` between the markers.

    Raises:
        ValueError: The page has no such place.
    """
    before, found, rest = page.partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (found and closed):
        raise ValueError(f"the page needs {BEGIN} and {END}")
    return f"{before}{BEGIN}\n```text\n{transcript}\n```\n{END}{after}"


def _clean_environment() -> dict[str, str]:
    """The environment without what would change the demo's server or its model."""
    return {k: v for k, v in os.environ.items() if not k.startswith(("SPARKLE_", "OPENAI_"))}


def main() -> int:
    """Record once, write both pages."""
    transcript = record()
    for page in READMES:
        page.write_text(placed(page.read_text("utf-8"), transcript), "utf-8")
    print(transcript)
    return 0


if __name__ == "__main__":
    sys.exit(main())
