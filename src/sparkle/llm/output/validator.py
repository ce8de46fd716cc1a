"""The output guard: whole answers, tool-call arguments and streams."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sparkle.llm.output.leak import LeakTracker, PromptGuard, PromptGuards
from sparkle.llm.output.rules import RuleDescription, compile_rules
from sparkle.llm.output.scan import Scanner
from sparkle.llm.output.stream import OutputStream
from sparkle.llm.output.text import MAX_PIECE, fold, oversized
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.verdict import ALLOW, Verdict

_LEAK_SLICE = 65536


@dataclass(frozen=True, slots=True)
class OutputResult:
    """The judgement of a whole text."""

    verdict: Verdict
    text: str
    """What may leave: redacted; when blocked, what stood before the first blocking span."""


class OutputValidator:
    """Layer 4: sensitive data, secrets, active content and the hidden prompt in what a model answers.

    Fails closed: an error in here is for the caller to treat as a block unless the policy says otherwise. Holds no
    state of a text; one instance serves all threads and requests.
    """

    def __init__(self, policy: OutputPolicy) -> None:
        """Compile the rules.

        Raises:
            PolicyError: unknown rule names, bad exceptions or a bad placeholder.
        """
        self._compiled = compile_rules(policy)
        self._scanner = Scanner(self._compiled)
        modes = self._compiled.by_id
        overlap = policy.prompt_overlap_chars if "leak.system_prompt" in modes else 0
        self._canaries = "leak.canary" in modes
        self._guards = PromptGuards(overlap)

    @property
    def rules(self) -> tuple[RuleDescription, ...]:
        """All rules with their modes under this policy."""
        return self._compiled.descriptions

    def prompt_guard(self, system_texts: Sequence[str], canary: str | None = None) -> PromptGuard:
        """What must not leak in one call. Cheap, and cached by text."""
        return self._guards.get(system_texts, canary if self._canaries else None)

    def check_text(self, text: str, *, prompt: PromptGuard | None = None, path: str = "") -> OutputResult:
        """Judge a whole text; spans of the findings are code points of ``text``."""
        if self._clean(text, prompt):
            return OutputResult(ALLOW, text)
        stream = self.open_stream(prompt=prompt, path=path)
        out = stream.feed(text) + stream.finish()
        return OutputResult(stream.verdict, out)

    def open_stream(self, *, prompt: PromptGuard | None = None, path: str = "") -> OutputStream:
        """A guard for one channel of a streamed answer."""
        return OutputStream(self._scanner, self._compiled, prompt, path)

    def _clean(self, text: str, prompt: PromptGuard | None) -> bool:
        """Whether nothing can be found: one pass and no trigger."""
        folded, _ = fold(text)
        data = folded.encode()
        if self._scanner.triggered(data) is not None:
            return False
        if len(folded) > MAX_PIECE and next(oversized(folded, 0), None) is not None:
            return False
        if prompt is None or not prompt.active:
            return True
        leak = LeakTracker(prompt)
        return not any(leak.feed(data[at : at + _LEAK_SLICE]) for at in range(0, len(data), _LEAK_SLICE))
