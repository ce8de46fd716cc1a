"""The output guard: whole answers, tool-call arguments and streams."""

from __future__ import annotations

from collections.abc import Sequence

from sparkle.llm.output.held import MAX_INVISIBLE
from sparkle.llm.output.leak import LeakTracker, PromptGuard, PromptGuards, plain
from sparkle.llm.output.rendered import RenderedStream, sanitise
from sparkle.llm.output.result import OutputResult
from sparkle.llm.output.rules import RuleDescription, compile_rules
from sparkle.llm.output.scan import Scanner
from sparkle.llm.output.stream import LONG, OutputStream
from sparkle.llm.output.text import MAX_PIECE, fold, oversized
from sparkle.llm.output.tool_json import check_json
from sparkle.llm.policy import OutputPolicy
from sparkle.llm.verdict import ALLOW

_LEAK_SLICE = 65536
_SHORT = 64
_MOST_SHORT = 512


class OutputValidator:
    """Layer 4: sensitive data, secrets, active content and the hidden prompt in what a model answers.

    Fails closed: an error in here is for the caller to treat as a block unless the policy says otherwise. One instance
    serves all threads and requests. It keeps the last few hundred short strings in which it found nothing: the names
    around an answer (model, kind of object, fingerprint) are the same in every answer.
    """

    def __init__(self, policy: OutputPolicy) -> None:
        """Compile the rules.

        Raises:
            PolicyError: unknown rule names, bad exceptions or a bad placeholder.
        """
        self._compiled = compile_rules(policy)
        self._html = policy.render == "html"
        self._scanner = Scanner(self._compiled, markdown=not self._html)
        modes = self._compiled.by_id
        overlap = policy.prompt_overlap_chars if "leak.system_prompt" in modes else 0
        self._canaries = "leak.canary" in modes
        self._guards = PromptGuards(overlap)
        self._known_clean: dict[str, int] = {}

    @property
    def rules(self) -> tuple[RuleDescription, ...]:
        """All rules with their modes under this policy."""
        return self._compiled.descriptions

    def prompt_guard(self, system_texts: Sequence[str], canary: str | None = None) -> PromptGuard:
        """What must not leak in one call. Cheap, and cached by text."""
        return self._guards.get(system_texts, canary if self._canaries else None)

    def check_text(self, text: str, *, prompt: PromptGuard | None = None, path: str = "") -> OutputResult:
        """Judge a whole text; spans of the findings are code points of ``text``.

        Where the policy renders HTML the text that may leave is sanitised HTML.
        """
        result = self._check(text, prompt, path)
        return OutputResult(result.verdict, sanitise(result.text)) if self._html else result

    def check_tool_arguments(
        self, arguments: str, *, prompt: PromptGuard | None = None, path: str = ""
    ) -> OutputResult:
        """Judge the JSON text of a tool call; it stays JSON, and what is not redacted keeps its bytes.

        Text that is no JSON is judged as plain text. Never sanitised as HTML: a program reads it.
        """
        result = check_json(arguments, lambda value: self._check(value, prompt, path))
        return self._check(arguments, prompt, path) if result is None else result

    def _check(self, text: str, prompt: PromptGuard | None, path: str) -> OutputResult:
        short = len(text) <= _SHORT
        size = self._known_clean.get(text) if short else None
        if size is not None and (prompt is None or size < prompt.shortest):
            return OutputResult(ALLOW, text)
        folded, marks = fold(text)
        data = folded.encode()
        # The triggers of a long text are looked for slice by slice.
        long = len(text) > LONG
        known = None if long else self._scanner.triggered(data)
        if not self._scanner.hinted(data) if long else known is None:
            crowded = any(a == b for a, b in zip(marks, marks[MAX_INVISIBLE:], strict=False))
            if not crowded and self._clean(folded, data, prompt):
                if short:
                    if len(self._known_clean) >= _MOST_SHORT:
                        self._known_clean.clear()
                    self._known_clean[text] = len(plain(data))
                return OutputResult(ALLOW, text)
        stream = OutputStream(self._scanner, self._compiled, prompt, path)
        out = stream.take_all(text, folded, marks, known)
        return OutputResult(stream.verdict, out)

    def open_stream(self, *, prompt: PromptGuard | None = None, path: str = "") -> OutputStream:
        """A guard for one channel of a streamed answer."""
        kind = RenderedStream if self._html else OutputStream
        return kind(self._scanner, self._compiled, prompt, path)

    def _clean(self, folded: str, data: bytes, prompt: PromptGuard | None) -> bool:
        """Whether nothing can be found in a text without a trigger."""
        if len(folded) > MAX_PIECE and next(oversized(folded, 0), None) is not None:
            return False
        if prompt is None or not prompt.active:
            return True
        leak = LeakTracker(prompt)
        return not any(leak.feed(data[at : at + _LEAK_SLICE]) for at in range(0, len(data), _LEAK_SLICE))
