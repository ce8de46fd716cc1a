"""``python -m tests.chaos.render [--over WHAT] PAGE RESULT.json...``: writes ``--json`` results into a page.

Rows of faults that the results do not name stay as they are.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
from tests.chaos.__main__ import COLUMNS, row
from tests.chaos.driver import RoundResult
from tests.chaos.faults import FAULTS


def main() -> int:
    """Render; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.chaos.render", description=__doc__)
    parser.add_argument("--over", default="", help="which of the page's tables, e.g. postgresql")
    parser.add_argument("page", type=Path)
    parser.add_argument("results", nargs="+", type=Path)
    options = parser.parse_args()
    results: dict[str, list[RoundResult]] = {}
    for path in options.results:
        results |= msgspec.json.decode(path.read_bytes(), type=dict[str, list[RoundResult]])
    label = f"chaos {options.over}".strip()
    begin, end = f"<!-- {label}: begin -->", f"<!-- {label}: end -->"
    before, _, rest = options.page.read_text("utf-8").partition(begin)
    table, _, after = rest.partition(end)
    rows = {line.split("`")[1]: line for line in table.splitlines() if line.startswith("| `")}
    rows |= {
        fault: f"| {' | '.join([f'`{fault}`', str(len(found)), *row(found)])} |"
        for fault, found in results.items()
    }
    heading = [COLUMNS[0], "rounds", *COLUMNS[1:]]
    lines = [f"| {' | '.join(heading)} |", "|" + "---|" * len(heading)]
    lines += [rows[fault] for fault in FAULTS if fault in rows]
    lines += ["", "A time is the median, with the maximum."]
    options.page.write_text(f"{before}{begin}\n" + "\n".join(lines) + f"\n{end}{after}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
