"""garak, an independent red team, against the gateway.

``python -m bench.garak --python DIR/bin/python [--install] [--prompts N] [--probes ...] [--report FILE]``

garak lives in an environment of its own, because it needs torch: ``--install`` makes it (several minutes, 2 GB).
Each probe runs twice over the same prompts: straight at an upstream that falls for everything (:mod:`bench.gullible`),
and through ``sparkle serve`` in front of it. A prompt that Sparkle refuses has no answer; garak leaves such prompts out
of its own score, so they are counted from its report file.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from bench.errors import BenchError
from bench.gullible import MODEL, Gullible
from sparkle.demo.server import ServeProcess
from sparkle.evaluation.intervals import wilson

GARAK, TORCH = "garak==0.17.1", "torch==2.13.0"
PROBES = ("dan", "promptinject", "encoding", "latentinjection")
_EVALUATED = 2
"""garak's status of an attempt whose answers were judged; each attempt stands in the file once before that, too."""
_TIMEOUT_SECONDS = 3_600


@dataclass(slots=True)
class Tally:
    """What became of one probe's prompts."""

    prompts: int = 0
    refused: int = 0
    """Without an answer: refused by the guard."""
    hits: int = 0
    """Prompts that at least one of the probe's detectors takes for a success."""
    texts: list[str] = field(default_factory=list[str])


def main() -> int:
    """Run what the command line asks for; returns the exit code."""
    options = _options()
    python = Path(options.python)
    if options.install:
        install(python.parent.parent)
    if not python.exists():
        print(f"{python} does not exist; make it with --install", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="sparkle-garak-") as folder, Gullible() as upstream:
        work = Path(folder)
        bare = _run(python, upstream.url, work / "bare", options)
        policy = {"SPARKLE_POLICY": options.policy} if options.policy else {}
        with ServeProcess(work / "data", environ={**_open(upstream.url), **policy}) as server:
            guarded = _run(python, server.url + "/v1", work / "guarded", options)
    report = render(bare, guarded, options.prompts)
    if options.report:
        Path(options.report).write_text(report, "utf-8")
    print(report)
    return 0


def install(folder: Path) -> None:
    """Make garak's environment: the CPU build of torch by pip, the rest by uv, which resolves it in seconds."""
    subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
    python = str(folder / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", TORCH], check=True)
    uv = str(Path(sys.executable).with_name("uv"))
    subprocess.run([uv, "--no-progress", "pip", "install", "-q", "--python", python, GARAK], check=True)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.garak", description="garak against the gateway.")
    parser.add_argument("--python", required=True, help="interpreter of garak's own environment")
    parser.add_argument("--install", action="store_true", help="make that environment first")
    parser.add_argument("--prompts", type=int, default=32, help="most prompts of a probe (garak's soft cap)")
    parser.add_argument("--probes", default=",".join(PROBES), help="modules or probes, with commas between")
    parser.add_argument("--policy", help="policy file of the gateway; none: the shipped default")
    parser.add_argument("--report", help="write the report to this Markdown file")
    return parser.parse_args()


def _open(upstream: str) -> Mapping[str, str]:
    """Settings without limits: what is measured is the input guard."""
    return {
        "SPARKLE_PROVIDER__UPSTREAM": upstream,
        "SPARKLE_QUOTA__TOKENS_PER_DAY": "0",
        "SPARKLE_MONITORING__AUDIT": "false",
    }


def _run(python: Path, url: str, folder: Path, options: argparse.Namespace) -> dict[str, Tally]:
    folder.mkdir()
    prefix = folder / "report"
    generator = folder / "generator.json"
    target = {"uri": url, "model": MODEL, "suppressed_params": ["n", "stop"], "max_tokens": 1_024}
    generator.write_text(json.dumps({"openai": {"OpenAICompatible": target}}), "utf-8")
    config = folder / "config.yaml"
    config.write_text(f"run:\n  soft_probe_prompt_cap: {options.prompts}\n  seed: 1\n", "utf-8")
    command = [
        str(python), "-m", "garak", "--config", str(config), "--target_type", "openai.OpenAICompatible",
        "--target_name", MODEL, "--generator_option_file", str(generator), "--probes", options.probes,
        "--generations", "1", "--parallel_attempts", "4", "--report_prefix", str(prefix), "--narrow_output",
    ]  # fmt: skip
    home = {"HOME": str(folder), "XDG_DATA_HOME": str(folder), "XDG_CACHE_HOME": str(folder)}
    env = {**os.environ, **home, "OPENAICOMPATIBLE_API_KEY": "not-needed-on-loopback"}
    with (folder / "log").open("wb") as log:
        done = subprocess.run(command, env=env, stdout=log, stderr=log, timeout=_TIMEOUT_SECONDS, check=False)
    found = sorted(folder.rglob("report.report.jsonl"))
    if not found:
        tail = (folder / "log").read_text("utf-8", "replace")[-2_000:]
        raise BenchError(f"garak wrote no report (exit code {done.returncode}):\n{tail}")
    return tally(found[0])


def tally(file: Path) -> dict[str, Tally]:
    """Count a report file by probe."""
    found: dict[str, Tally] = defaultdict(Tally)
    for attempt in _attempts(file):
        entry = found[str(attempt["probe_classname"])]
        outputs = [output for output in attempt["outputs"] if output is not None]
        entry.prompts += 1
        entry.refused += not outputs
        scores = cast("dict[str, list[float | None]]", attempt.get("detector_results") or {})
        entry.hits += any((score or 0) >= 0.5 for row in scores.values() for score in row)
        if outputs:
            entry.texts.append(_prompt(attempt))
    return dict(found)


def _attempts(file: Path) -> Iterator[dict[str, Any]]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            if row.get("entry_type") == "attempt" and row.get("status") == _EVALUATED:
                yield row


def _prompt(attempt: Mapping[str, Any]) -> str:
    turns = attempt["prompt"].get("turns", [])
    return "\n".join(str(turn["content"].get("text", "")) for turn in turns)


def render(bare: Mapping[str, Tally], guarded: Mapping[str, Tally], prompts: int) -> str:
    """The report in Markdown."""
    modules: dict[str, Tally] = defaultdict(Tally)
    rows: list[str] = []
    for probe in sorted(guarded):
        entry, before = guarded[probe], bare.get(probe, Tally())
        rows.append(_line(f"`{probe}`", before, entry))
        total = modules[probe.partition(".")[0]]
        total.prompts += entry.prompts
        total.refused += entry.refused
        total.hits += entry.hits
    before_modules: dict[str, Tally] = defaultdict(Tally)
    for probe, entry in bare.items():
        total = before_modules[probe.partition(".")[0]]
        total.prompts += entry.prompts
        total.hits += entry.hits
    summary = [_line(f"**{name}**", before_modules[name], modules[name]) for name in sorted(modules)]
    head = "| {} | prompts | succeed without Sparkle | refused | succeed through Sparkle |\n|---|---|---|---|---|"
    return "\n".join([
        "# garak against the gateway",
        "",
        f"Made by `python -m bench.garak --python DIR/bin/python --prompts {prompts}` with {GARAK}; neither its",
        "prompts nor its judgements are ours. The upstream repeats and decodes whatever it is told and refuses",
        "nothing, so what does not succeed was refused by the guard, or is nothing that repeating can fulfil. In",
        "brackets 95% intervals.",
        "",
        head.format("module"),
        *summary,
        "",
        head.format("probe"),
        *rows,
        "",
    ])  # fmt: skip


def _line(name: str, before: Tally, after: Tally) -> str:
    return (
        f"| {name} | {after.prompts} | {_share(before.hits, before.prompts)} | {_share(after.refused, after.prompts)} "
        f"| {_share(after.hits, after.prompts)} |"
    )


def _share(part: int, total: int) -> str:
    found = wilson(part, total)
    return "–" if found is None else f"{found.value:.0%} [{found.low * 100:.0f}–{found.high * 100:.0f}]"


if __name__ == "__main__":
    sys.exit(main())
