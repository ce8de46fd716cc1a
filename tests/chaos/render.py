"""``python -m tests.chaos.render PAGE RESULT.json...``: writes what ``--json`` recorded between a page's markers."""

from __future__ import annotations

import sys
from pathlib import Path

import msgspec
from tests.chaos.__main__ import COLUMNS, row
from tests.chaos.driver import RoundResult
from tests.chaos.faults import FAULTS

BEGIN, END = "<!-- chaos: begin -->", "<!-- chaos: end -->"


def main() -> int:
    """Render; returns the exit code."""
    page = Path(sys.argv[1])
    results: dict[str, list[RoundResult]] = {}
    for name in sys.argv[2:]:
        results |= msgspec.json.decode(Path(name).read_bytes(), type=dict[str, list[RoundResult]])
    lines = [f"| {' | '.join(COLUMNS)} |", "|" + "---|" * len(COLUMNS)]
    lines += [f"| `{fault}` | {' | '.join(row(results[fault]))} |" for fault in FAULTS if fault in results]
    rounds = {len(found) for found in results.values()}
    lines += [
        "",
        f"Rounds per fault: {', '.join(map(str, sorted(rounds)))}. A time is the median, with the maximum.",
    ]
    before, _, rest = page.read_text("utf-8").partition(BEGIN)
    _, _, after = rest.partition(END)
    page.write_text(f"{before}{BEGIN}\n" + "\n".join(lines) + f"\n{END}{after}", "utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
