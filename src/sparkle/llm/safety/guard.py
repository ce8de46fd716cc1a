"""Layer 1 of the guarded call: the input.

Fails closed: what this layer cannot judge it does not let through (``policy.on_error`` can change that for the call).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Any

from msgspec import Struct, structs

from sparkle.errors import ConfigurationError, PolicyError
from sparkle.llm.policy import DEFAULT_ROLES, AllowEntry, InputPolicy, Trust, deciding_key, mode_for
from sparkle.llm.safety import shape
from sparkle.llm.safety.classifier import (
    MODEL_DIRECT,
    MODEL_INDIRECT,
    NO_OPINION,
    Classifier,
    ClassifierHit,
    Opinion,
    classify,
)
from sparkle.llm.safety.engine import default_engine
from sparkle.llm.safety.fold import fold
from sparkle.llm.safety.judge import Judge, Judgement
from sparkle.llm.safety.layers import default_layers
from sparkle.llm.safety.markdown import CodeSpans
from sparkle.llm.safety.messages import collect
from sparkle.llm.safety.pieces import Piece, Pieces
from sparkle.llm.safety.redact import Edit, redact, redact_messages
from sparkle.llm.safety.regex import Regex
from sparkle.llm.safety.remembered import Remembered
from sparkle.llm.safety.rules import RuleInfo, default_book
from sparkle.llm.verdict import ALLOW, Finding, Mode, Verdict

MAX_FINDINGS = 64
"""Findings of one text that are told; further ones add nothing to the decision."""

_LEARNED = frozenset({MODEL_DIRECT, MODEL_INDIRECT})


class InputResult(Struct, frozen=True):
    """The judgement on a conversation."""

    verdict: Verdict
    messages: Sequence[Mapping[str, Any]]
    """What may be sent on: the same object if nothing was redacted, else a copy with the redactions made."""


@dataclass(frozen=True, slots=True)
class Explanation:
    """Everything the layer saw in a text, for ``sparkle guard explain``. Holds the text: never log it."""

    verdict: Verdict
    judgement: Judgement
    """Readings (``judgement.readings.views``), rules met in each (``hits``) and signals (``signals``)."""


class _Allow:
    """One exception of the policy, compiled."""

    __slots__ = ("_pattern", "_text", "rule")

    def __init__(self, entry: AllowEntry, index: int) -> None:
        self.rule = entry.rule
        self._text = fold(entry.text) if entry.text else None
        if not entry.text and not entry.pattern:
            raise PolicyError(f"input.allow[{index}] needs text or pattern", param=f"input.allow[{index}]")
        try:
            self._pattern = Regex(entry.pattern.encode(), latin1=False) if entry.pattern else None
        except ConfigurationError as error:
            where = f"input.allow[{index}].pattern"
            raise PolicyError(f"{where}: {error.message}", param=where) from None

    def covers(self, rule: RuleInfo) -> bool:
        """Whether the exception is about this rule, by its id, its category or a pattern of ids."""
        wanted = self.rule
        return (
            wanted in (rule.id, rule.category)
            or fnmatchcase(rule.id, wanted)
            or rule.id.startswith(wanted + ".")
        )

    def allows(self, rule: RuleInfo, matched: str) -> bool:
        if not self.covers(rule):
            return False
        if self._text is not None and fold(matched).strip() != self._text.strip():
            return False
        return self._pattern is None or self._pattern.fullmatch(matched.encode("utf-8", "replace"))


class LLMSafety:
    """Judges what goes into a model. Synchronous, CPU only, thread-safe; no state but its configuration.

    Args:
        policy: modes per rule, trust per role, limits and exceptions.
        classifier: the learned layer, asked about every reading of a text after the rules; ``None``: rules alone.
            :func:`sparkle.llm.safety.build.build_safety` chooses it as the policy says.

    Raises:
        PolicyError: ``policy.rules`` names no known rule or category, or an exception's pattern is not valid RE2.
    """

    def __init__(self, policy: InputPolicy, *, classifier: Classifier | None = None) -> None:
        book = default_book()
        self.policy = policy
        #: All rules: id, category, severity, score, default mode, languages, reasons.
        self.rules: tuple[RuleInfo, ...] = tuple(book.infos.values())
        self._infos = book.infos
        self._modes = _modes(policy, self.rules)
        self._roles: dict[str, Trust] = DEFAULT_ROLES | policy.roles
        self._limits = policy.limits
        self._allow = tuple(_Allow(entry, index) for index, entry in enumerate(policy.allow))
        for index, entry in enumerate(self._allow):
            if not any(entry.covers(rule) for rule in self.rules):
                where = f"input.allow[{index}].rule"
                raise PolicyError(f"{where}: no rule or category is called {entry.rule!r}", param=where)
        self._lenient = _lenient(policy, self.rules)
        off = [rule for rule, mode in self._modes.items() if mode is Mode.OFF]
        self._silent = len(off) == len(self._modes)
        self._harmless = Remembered(policy.remember)
        self._judge = Judge(default_engine(), default_layers(), off)
        self._classifier = classifier

    @property
    def roles(self) -> Mapping[str, Trust]:
        """The roles that the policy names, its own and the usual ones."""
        return self._roles

    def trust_of(self, role: str) -> Trust:
        """How text of a role is judged; a role that nobody named is not to be trusted."""
        return self._roles.get(role, "untrusted")

    def check_text(self, text: str, *, trust: Trust = "untrusted", path: str = "") -> Verdict:
        """Judge one text.

        Args:
            text: any string; lone surrogates and control characters are judged too.
            trust: how the text is judged, see :data:`sparkle.llm.policy.Trust`.
            path: where the text stands, copied into the findings.
        """
        findings, opinion = self._findings(text, trust, path)
        return Verdict.of(findings, opinion.likelihood)

    def redact_text(self, text: str, *, trust: Trust = "untrusted", path: str = "") -> tuple[Verdict, str]:
        """Judge one text and take out what rules in mode ``redact`` found."""
        verdict = self.check_text(text, trust=trust, path=path)
        return verdict, redact(text, verdict.findings)

    def check_messages(
        self,
        messages: Sequence[Mapping[str, Any]],
        tools: object = None,
        rest: Mapping[str, Any] | None = None,
    ) -> InputResult:
        """Judge a request in the shape of OpenAI's chat completions.

        Every message is judged by its role, earlier turns included, with all its fields; neighbouring messages of one
        role also as one text. Keys are text like values.

        Args:
            messages: the conversation.
            tools: the tool definitions, judged like role ``tool_definition``.
            rest: all other top-level fields (the whole body will do): ``functions`` are tools, ``system`` and
                ``instructions`` are trusted like role ``system``, everything else is ``indirect``.

        Raises:
            InvalidRequestError: a message is not an object or has content of no known shape, or the request brings a
                chat template; ``param`` says where.
        """
        # More strings than may be are not even collected, unless the policy wants them let through.
        refused = self._modes[shape.TOO_MANY_STRINGS] is Mode.BLOCK
        most = self._limits.max_strings if refused else None
        pieces = collect(messages, tools, self._roles, rest, most=most)
        findings = [
            self._finding(self._infos[hit.rule], hit.start, hit.end, self._modes[hit.rule], "messages")
            for hit in self._counts(messages, pieces)
        ]
        if any(finding.mode is Mode.BLOCK for finding in findings):
            return InputResult(Verdict.of(findings), messages)  # refused anyway: no need to read it
        edits: list[Edit] = []
        likelihood = 0.0
        for piece in pieces.items:
            likelihood = max(likelihood, self._judge_piece(piece, findings, edits))
        if not findings and likelihood == 0.0:
            return InputResult(ALLOW, messages)
        verdict = Verdict.of(findings, likelihood)
        return InputResult(verdict, redact_messages(messages, edits) if edits else messages)

    def explain(self, text: str, *, trust: Trust = "untrusted") -> Explanation:
        """The verdict with everything that led to it."""
        judgement = self._judge.judge(text, indirect=trust == "indirect")
        return Explanation(self.check_text(text, trust=trust), judgement)

    def _counts(self, messages: Sequence[Mapping[str, Any]], pieces: Pieces) -> Iterator[shape.ShapeHit]:
        limits = self._limits
        for rule, count, most in (
            (shape.TOO_MANY_MESSAGES, len(messages), limits.max_messages),
            (shape.TOO_MANY_PARTS, pieces.most_parts, limits.max_parts),
            (shape.TOO_MANY_STRINGS, pieces.strings, limits.max_strings),
            (shape.TOTAL_TOO_LONG, pieces.total, limits.max_total_chars),
        ):
            if count > most and self._modes[rule] is not Mode.OFF:
                yield shape.ShapeHit(rule, 0, 0)

    def _judge_piece(self, piece: Piece, findings: list[Finding], edits: list[Edit]) -> float:
        """Add what is found in a piece; returns how likely it is an attack by the classifier."""
        if piece.trust == "off" or self._silent:
            return 0.0
        lenient = piece.defines_tools
        seen = self._harmless.digest(piece.text, f"{piece.trust}{not piece.segments:d}{lenient:d}")
        if seen in self._harmless:
            return 0.0
        found, opinion = self._findings(
            piece.text, piece.trust, "", whole=not piece.segments, lenient=lenient
        )
        if not found:
            if not opinion.provisional:
                self._harmless.add(seen)
            return opinion.likelihood
        if piece.segments:
            found = _about_all(found, piece, findings)
        # The same texts are joined in two ways; what shows in both is told once.
        told: set[tuple[str, str, int]] = set()
        if piece.segments:
            told = {(finding.rule, finding.path, finding.start) for finding in findings}
        for finding in found:
            for part, start, end in piece.places(finding.start, finding.end):
                moved = _moved(finding, start, end, part.path())
                if moved.mode is Mode.REDACT:
                    if part.fixed:
                        # What cannot be taken out must not pass.
                        moved = structs.replace(moved, mode=Mode.BLOCK)
                    else:
                        edits.append(Edit(part.keys, moved))
                if (moved.rule, moved.path, moved.start) not in told:
                    findings.append(moved)
        return opinion.likelihood

    def _findings(
        self, text: str, trust: Trust, path: str, *, whole: bool = True, lenient: bool = False
    ) -> tuple[list[Finding], Opinion]:
        """Findings of one text and the classifier's opinion.

        Args:
            text: the text.
            trust: of whoever wrote it.
            path: where it stands.
            whole: it is one text of the caller's, so its length counts.
            lenient: it is made of names and orders by its nature, like the definition of a tool: the classifier must
                be as sure as under the preset ``permissive``.
        """
        if trust == "off" or not text:
            return [], NO_OPINION
        watched = trust == "watch"
        found: list[Finding] = []
        too_long = shape.text_length(text, self._limits) if whole else None
        if too_long is not None:
            mode = self._mode(too_long.rule, watched)
            if mode is not Mode.OFF:
                found.append(
                    self._finding(self._infos[too_long.rule], too_long.start, too_long.end, mode, path)
                )
            if mode is Mode.BLOCK:
                return found, NO_OPINION  # refused anyway: no need to read it
        if trust == "trusted":
            return found, NO_OPINION
        judgement = self._judge.judge(text, indirect=trust == "indirect")
        code: CodeSpans | None = None
        for hit in judgement.hits:
            info = self._infos[hit.rule]
            mode = self._mode(hit.rule, watched or (hit.rule in self._lenient and trust == "untrusted"))
            if self._allow and any(entry.allows(info, text[hit.start : hit.end]) for entry in self._allow):
                continue
            if info.in_code == "watch" and mode is not Mode.WATCH:
                code = code or CodeSpans(text)
                if code.hold(hit.start, hit.end):
                    mode = Mode.WATCH
            found.append(self._finding(info, hit.start, hit.end, mode, path))
        self._odd(text, judgement, watched, path, found)
        opinion = self._opinion(judgement, indirect=trust == "indirect", lenient=lenient)
        for scored in opinion.hits:
            self._scored(scored, text, watched, path, found)
        if len(found) > MAX_FINDINGS:
            # Enforced findings first: the decision and the redactions must not depend on how many were watched.
            found.sort(key=lambda finding: finding.mode is Mode.WATCH)
            kept = [f for f in found if f.mode is Mode.REDACT]
            found = kept + [f for f in found if f.mode is not Mode.REDACT][: max(MAX_FINDINGS - len(kept), 1)]
        return found, replace(opinion, likelihood=0.0) if watched else opinion

    def _opinion(self, judgement: Judgement, *, indirect: bool, lenient: bool) -> Opinion:
        rule = MODEL_INDIRECT if indirect else MODEL_DIRECT
        if self._classifier is None or self._modes[rule] is Mode.OFF:
            return NO_OPINION
        preset = "permissive" if lenient else self.policy.preset
        return classify(self._classifier, judgement.readings, indirect=indirect, preset=preset)

    def _odd(self, text: str, judgement: Judgement, watched: bool, path: str, found: list[Finding]) -> None:
        plain = judgement.readings.views == (judgement.readings.root,) and text.isascii()
        hits = [] if plain else [*shape.odd_characters(text, self._limits)]
        if judgement.readings.exhausted:
            hits.append(shape.ShapeHit(shape.TOO_MANY_LAYERS, 0, len(text)))
        for hit in hits:
            mode = self._mode(hit.rule, watched)
            if mode is not Mode.OFF:
                found.append(self._finding(self._infos[hit.rule], hit.start, hit.end, mode, path))

    def _scored(
        self, scored: ClassifierHit, text: str, watched: bool, path: str, found: list[Finding]
    ) -> None:
        info, mode = self._infos[scored.rule], self._mode(scored.rule, watched)
        if mode is Mode.OFF:
            return
        if self._allow and any(entry.allows(info, text[scored.start : scored.end]) for entry in self._allow):
            return
        found.append(
            structs.replace(self._finding(info, scored.start, scored.end, mode, path), score=scored.score)
        )

    def _mode(self, rule: str, watched: bool) -> Mode:
        mode = self._modes[rule]
        return Mode.WATCH if watched and mode is not Mode.OFF else mode

    def _finding(self, info: RuleInfo, start: int, end: int, mode: Mode, path: str) -> Finding:
        return Finding(
            info.id, info.category, info.severity, "input", start, end, info.score, mode,
            info.reason, info.reason_zh, path,
        )  # fmt: skip


def _about_all(found: list[Finding], piece: Piece, before: list[Finding]) -> list[Finding]:
    """The findings of a joined text: what the classifier says holds for all of it, unless it said so of a part."""
    if any(finding.rule in _LEARNED for finding in before):
        return [finding for finding in found if finding.rule not in _LEARNED]
    kept: dict[str, Finding] = {}
    for finding in found:
        if finding.rule in _LEARNED:
            kept[finding.rule] = structs.replace(finding, start=0, end=len(piece.text))
    return [finding for finding in found if finding.rule not in _LEARNED] + [*kept.values()]


def _moved(finding: Finding, start: int, end: int, path: str) -> Finding:
    return structs.replace(finding, start=start, end=end, path=path)


def _modes(policy: InputPolicy, rules: Sequence[RuleInfo]) -> dict[str, Mode]:
    """The mode of every rule under the policy, refusing names that mean nothing: a misspelt rule would not hold."""
    for name in policy.rules:
        stem = name.removesuffix("*").removesuffix(".")
        if stem and not any(
            i == stem or i.startswith(stem + ".") for rule in rules for i in (rule.id, rule.category)
        ):
            raise PolicyError(
                f"input.rules names no known rule or category: {name!r}", param=f"input.rules.{name}"
            )
    return {rule.id: mode_for(policy.rules, rule.id, rule.category, rule.default_mode) for rule in rules}


def _lenient(policy: InputPolicy, rules: Sequence[RuleInfo]) -> frozenset[str]:
    """The rules that the preset only watches in a user's text; what the policy says of a rule itself wins."""
    if policy.preset != "permissive":
        return frozenset()
    return frozenset(
        rule.id
        for rule in rules
        if rule.permissive == "watch" and deciding_key(policy.rules, rule.id, rule.category) is None
    )
