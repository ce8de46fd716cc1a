"""Why a text was allowed, redacted or blocked, for a person at a terminal. Prints the text: not for logs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Console
from rich.markup import escape

from sparkle.llm.output import OutputValidator
from sparkle.llm.policy import InputPolicy, OutputPolicy, Trust
from sparkle.llm.safety.build import build_safety

if TYPE_CHECKING:
    from sparkle.llm.verdict import Verdict

_TRUST: dict[str, Trust] = {"user": "untrusted", "tool": "indirect", "retrieved": "indirect"}
_COLOUR = {"allow": "green", "redact": "yellow", "block": "red"}
_SHOWN_CHARS = 300


def explain_input(text: str, policy: InputPolicy, role: str, console: Console | None = None) -> None:
    """Print the input guard's view of ``text`` as a message of ``role`` (``user``, ``tool`` or ``retrieved``)."""
    console = console or Console()
    explanation = build_safety(policy, wait=True).explain(text, trust=_TRUST[role])
    _verdict(console, explanation.verdict)
    _findings(console, explanation.verdict, text)
    judgement = explanation.judgement
    if len(judgement.readings.views) > 1:
        console.print("\n[bold]How the text was read[/]  [dim](the layers that the normaliser undid)[/]")
        for view in judgement.readings.views:
            console.print(f"  [cyan]{escape(view.name)}[/] {escape(_shorten(view.text))}")
    hits = {(hit.rule, hit.reading) for hit in judgement.hits} | {
        (s.rule, "signal") for s in judgement.signals
    }
    if hits:
        console.print("\n[bold]Rules and signals met[/]")
        for rule, reading in sorted(hits):
            console.print(f"  {escape(rule)} [dim]in {escape(reading)}[/]")


def explain_output(text: str, policy: OutputPolicy, console: Console | None = None) -> None:
    """Print the output guard's view of ``text`` as a model's answer."""
    console = console or Console()
    result = OutputValidator(policy).check_text(text)
    _verdict(console, result.verdict)
    _findings(console, result.verdict, text)
    if result.text != text:
        console.print("\n[bold]What would leave[/]")
        console.print(escape(result.text))


def _verdict(console: Console, verdict: Verdict) -> None:
    colour = _COLOUR[verdict.action]
    console.print(f"[bold {colour}]{verdict.action}[/]  score {verdict.score:.2f}")


def _findings(console: Console, verdict: Verdict, text: str) -> None:
    if not verdict.findings:
        return
    for finding in verdict.findings:
        console.print(
            f"\n[bold]{escape(finding.rule)}[/]  {finding.mode}, {finding.severity}, score {finding.score:.2f}, "
            f"characters {finding.start}-{finding.end}",
            soft_wrap=True,
        )
        for line in (finding.reason, finding.reason_zh, _shorten(text[finding.start : finding.end], 80)):
            console.print(f"  {escape(line)}", soft_wrap=True, highlight=False)


def _shorten(text: str, limit: int = _SHOWN_CHARS) -> str:
    text = text.replace("\n", "⏎")
    return text if len(text) <= limit else text[: limit - 1] + "…"
