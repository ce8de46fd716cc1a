"""Puts recorded results into a Markdown page, between two markers.

Run: ``python -m bench.render [--brief] docs/benchmarks.md results.json``
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec

from bench.report import Part, Run, Table, judge

BEGIN = "<!-- recorded results: begin (written by python -m bench.render) -->"
END = "<!-- recorded results: end -->"


def markdown(run: Run, *, brief: bool = False) -> str:
    """All tables of a run as Markdown, with the machine they were measured on.

    Args:
        run: What was recorded.
        brief: Only the figures beside their targets.
    """
    facts = ", ".join(f"{name}: {value}" for name, value in run.machine.items())
    blocks = [f"Measured {run.started} ({facts})."]
    for part in run.parts:
        if brief:
            verdict = judge(part)
            blocks += [f"`{part.command}`", _table(verdict)] if verdict else []
            continue
        blocks += [f"### {part.name}", f"`{part.command}`, {part.seconds:.0f} s", *_part(part)]
    return "\n\n".join(blocks)


def place(page: str, text: str) -> str:
    """``page`` with ``text`` between the markers instead of what stood there.

    Raises:
        ValueError: The page has no such place, or more than one.
    """
    if page.count(BEGIN) != 1 or page.count(END) != 1 or page.index(BEGIN) > page.index(END):
        raise ValueError(f"the page needs one place between {BEGIN!r} and {END!r}")
    before, rest = page.split(BEGIN)
    return f"{before}{BEGIN}\n\n{text}\n\n{END}{rest.split(END)[1]}"


def _part(part: Part) -> list[str]:
    blocks: list[str] = []
    verdict = judge(part)
    for table in (*part.tables, *([verdict] if verdict else [])):
        blocks += [f"**{table.title}**", _table(table), *table.notes]
    blocks += [f"Not measured: {failure.splitlines()[0]}" for failure in part.failures]
    return blocks


def _table(table: Table) -> str:
    def row(cells: tuple[str, ...]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([row(table.columns), "|" + "---|" * len(table.columns), *map(row, table.rows)])


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("page", type=Path)
    parser.add_argument("results", type=Path, help="written by python -m bench --json")
    parser.add_argument("--brief", action="store_true", help="only the figures beside their targets")
    options = parser.parse_args()
    page: Path = options.page
    try:
        run = msgspec.json.decode(Path(options.results).read_bytes(), type=Run)
        page.write_text(
            place(page.read_text(encoding="utf-8"), markdown(run, brief=options.brief)), encoding="utf-8"
        )
    except (OSError, ValueError) as exc:
        sys.exit(f"bench.render: {exc}")


if __name__ == "__main__":
    main()
