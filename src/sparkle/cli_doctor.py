"""``sparkle doctor``."""

from __future__ import annotations

import json
import sys

import click

_SIGNS = {"ok": ("ok", "green"), "note": ("--", "blue"), "warning": ("!!", "yellow"), "failed": ("XX", "red")}


@click.command()
@click.option("--data-dir", type=click.Path(file_okay=False), help="Folder of the installation. [.sparkle]")
@click.option("--config", type=click.Path(dir_okay=False), help="YAML file with any setting.")
@click.option("--strict", is_flag=True, help="Exit with 1 also when there are only warnings.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def doctor(data_dir: str | None, config: str | None, strict: bool, as_json: bool) -> None:
    """Examine this installation and say how to mend what is wrong. Changes nothing.

    Exits with 0 when nothing has failed, else with 1.
    """
    from sparkle.doctor.findings import Status
    from sparkle.doctor.rounds import findings

    found = findings(file=config, overrides={"data_dir": data_dir})
    seen: list[Status] = []
    rows: list[dict[str, str | None]] = []
    for finding in found:
        seen.append(finding.status)
        if as_json:
            rows.append(finding.as_json())
            continue
        sign, colour = _SIGNS[finding.status.value]
        click.echo(f"{click.style(sign, fg=colour)}  {finding.check:14} {finding.message}")
        if finding.mend and finding.status is not Status.OK:
            click.echo(f"{'':19}-> {finding.mend}")
    healthy = Status.FAILED not in seen and not (strict and Status.WARNING in seen)
    if as_json:
        click.echo(json.dumps({"healthy": healthy, "findings": rows}, ensure_ascii=False, indent=2))
    sys.exit(0 if healthy else 1)
