"""Rules in their compiled form, under one policy (as they are written: rule_files.py)."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import lru_cache

from sparkle.errors import PolicyError
from sparkle.llm.output.candidate import Candidate, Check
from sparkle.llm.output.checks import CHECKS
from sparkle.llm.output.engine import Find, Pattern, compile_re2, compile_set, finder
from sparkle.llm.output.rule_files import FamilySpec, Finder, RuleFile, RuleSpec, load_rule_files
from sparkle.llm.output.screens import assign_screen, number_screen, piece_screen
from sparkle.llm.output.sieve import Sieve, family_sieve, sieve, trigger_sieve
from sparkle.llm.output.syntax import bounded_width, crosses_piece
from sparkle.llm.policy import AllowEntry, OutputPolicy, mode_for
from sparkle.llm.verdict import Finding, Mode, Severity

_RANK = {Severity.LOW: 0, Severity.MEDIUM: 1, Severity.HIGH: 2, Severity.CRITICAL: 3}
WIDEST_NUMBER = 80
"""Characters that a pattern of the finder ``number`` may match at most."""
_MAX_WIDTH = {"number": WIDEST_NUMBER, "assign": 512, "builtin": 0}


@dataclass(frozen=True, slots=True)
class RuleDescription:
    """What a person may read about a rule."""

    id: str
    category: str
    kind: str
    severity: Severity
    default_mode: Mode
    mode: Mode
    reason: str
    reason_zh: str


@dataclass(frozen=True, slots=True, eq=False)
class Rule:
    """A compiled rule under one policy."""

    spec: RuleSpec
    category: str
    mode: Mode
    rank: int
    placeholder: str
    finders: tuple[tuple[Find, int], ...]
    """Patterns of a ``piece`` rule, each with the group that is the value."""
    bounded: tuple[re.Pattern[str], ...]
    check: Check | None
    sieve: Sieve | None
    near: re.Pattern[str] | None
    allow: tuple[tuple[str, Pattern | None], ...]

    @property
    def enforced(self) -> bool:
        """Whether a finding changes the text."""
        return self.mode is not Mode.WATCH

    def blocking(self) -> Rule:
        """The same rule in mode ``block``."""
        return replace(self, mode=Mode.BLOCK)

    def finding(self, start: int, end: int, path: str) -> Finding:
        """A finding of this rule."""
        spec = self.spec
        # By place, which is faster than by name where a text has a thousand of them.
        return Finding(
            spec.id,
            self.category,
            spec.severity,
            "output",
            start,
            end,
            spec.score,
            self.mode,
            spec.reason,
            spec.reason_zh,
            path,
        )

    def accepts(self, text: str, start: int, end: int) -> tuple[int, int] | None:
        """The span to report for a match, after context, check and exceptions; ``None`` when it is no finding."""
        first = start
        if self.check is not None:
            span = self.check(Candidate(text, start, end))
            if span is None:
                return None
            start, end = span
        if self.near is not None and not self.near.search(text, max(0, first - 64), first):
            return None  # last, because it takes longer than most checks
        return None if self.allow and self.excepted(text[start:end]) else (start, end)

    def excepted(self, value: str) -> bool:
        """Whether the policy lets this value pass."""
        folded = value.casefold()
        return any(
            folded == text if rx is None else rx.fullmatch(value) is not None for text, rx in self.allow
        )


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """The active rules of a family."""

    name: str
    finder: Finder
    trigger: str
    hint: str
    """What is looked for before the trigger (triggers.py); may be empty."""
    rules: tuple[Rule, ...]
    screen: Find | None
    """Matches wherever a rule can (see screens.py); ``None`` for a builtin, which looks for itself."""
    any_number: re.Pattern[str]
    """All patterns of a ``number`` family in one, to reject most places with one look."""
    reach: int
    """Characters behind the end of a screen's match that its rules may look at."""
    which: Callable[[bytes], list[int] | None]
    """Of a ``piece`` family: which of ``finders`` match in a run."""
    finders: tuple[tuple[Rule, Find, int], ...]
    """The patterns of all its rules, each with its rule and the group that is the value."""
    led: bool
    """Whether words must stand before a value."""
    sieved: bool
    """Whether it has a sieve, or all its rules have."""
    sieve: re.Pattern[str] | None
    """Of all its rules together (rule_files.py)."""
    never: re.Pattern[str] | None
    """What begins so behind an ``assign`` trigger is turned down."""


@dataclass(frozen=True, slots=True, eq=False)
class RuleSet:
    """All that a policy leaves switched on."""

    families: tuple[Family, ...]
    by_id: Mapping[str, Rule]
    descriptions: tuple[RuleDescription, ...]


def compile_rules(policy: OutputPolicy) -> RuleSet:
    """The rules under a policy.

    Raises:
        PolicyError: the policy names a rule that does not exist, an exception is not RE2, or the placeholder is empty.
    """
    source = load_rule_files()
    _check_names(policy, source)
    compiled: dict[str, list[Rule]] = {}
    by_id: dict[str, Rule] = {}
    descriptions: list[RuleDescription] = []
    for spec in source.rules:
        mode = mode_for(policy.rules, spec.id, spec.category, spec.mode)
        descriptions.append(
            RuleDescription(
                spec.id, spec.category, spec.kind, spec.severity, spec.mode, mode, spec.reason, spec.reason_zh
            )
        )
        if mode is Mode.OFF:
            continue
        rule = _compile(spec, mode, policy, source)
        by_id[spec.id] = rule
        compiled.setdefault(spec.family, []).append(rule)
    families = tuple(
        _family(name, family, tuple(compiled[name]))
        for name, family in source.families.items()
        if name in compiled
    )
    return RuleSet(families, by_id, tuple(descriptions))


def _compile(spec: RuleSpec, mode: Mode, policy: OutputPolicy, source: RuleFile) -> Rule:
    family = source.families[spec.family]
    found: tuple[tuple[Find, int], ...] = ()
    bounded: tuple[re.Pattern[str], ...] = ()
    if family.finder == "piece":
        found = tuple(_shared_find(p, spec.id) for p in spec.patterns)
    else:
        bounded = tuple(_shared_re(p, _MAX_WIDTH[family.finder]) for p in spec.patterns)
    return Rule(
        spec=spec,
        category=spec.category,
        mode=mode,
        rank=_RANK[spec.severity],
        placeholder=render_placeholder(policy.placeholder, spec.kind),
        finders=found,
        bounded=bounded,
        check=CHECKS[spec.check] if spec.check else None,
        sieve=_shared_sieve(spec.sieves, spec.check, spec.whole),
        near=_shared_re(f"(?ia)(?:{family.led})\\Z", 96) if family.near else None,
        allow=tuple(_allow(entry) for entry in policy.allow if _covers(entry.rule, spec)),
    )


def _family(name: str, family: FamilySpec, rules: tuple[Rule, ...]) -> Family:
    trigger = family.whole_trigger
    patterns = tuple(p for rule in rules for p in rule.spec.patterns)
    screens = tuple((p, r.spec.whole) for r in rules for p in r.spec.screens or r.spec.patterns)
    union, reach = "", 2
    if family.finder == "number":
        union = "|".join(f"(?:{p})" for p in patterns)
        reach += max(bounded_width(p) for p in patterns)
    screen = _screen(name, family.finder, trigger, family.led, screens) if patterns else None
    which = _shared_set(patterns if family.finder == "piece" else ())
    any_number = re.compile(union)
    together, never = _shared_together(family.sieve, family.never, patterns)
    sieved = together is not None or all(rule.sieve for rule in rules)
    finders = tuple((rule, find, group) for rule in rules for find, group in rule.finders)
    return Family(
        name=name,
        finder=family.finder,
        trigger=trigger,
        hint=family.first_hint,
        rules=rules,
        screen=screen,
        any_number=any_number,
        reach=reach,
        which=which,
        finders=finders,
        led=bool(family.near),
        sieved=sieved,
        sieve=together,
        never=never,
    )


@lru_cache(maxsize=512)
def _screen(
    name: str, kind: Finder, trigger: str, near: str, screens: tuple[tuple[str, bool], ...]
) -> Find | None:
    where = f"screen of the output family {name}"
    if kind == "number":
        return number_screen(screens, near, where)
    patterns = tuple(pattern for pattern, _ in screens)
    if kind == "assign":
        return assign_screen(trigger, patterns, where)
    # Words before a value end its run, so what they trigger is looked at as it is.
    return finder(compile_re2(trigger, where)) if near else piece_screen(patterns, where)


@lru_cache(maxsize=64)
def _shared_set(patterns: tuple[str, ...]) -> Callable[[bytes], list[int] | None]:
    return compile_set(patterns)


@lru_cache(maxsize=64)
def _shared_sieve(patterns: tuple[str, ...], check: str, whole: bool) -> Sieve | None:
    return sieve(patterns, check, whole=whole)


@lru_cache(maxsize=64)
def _shared_together(
    sieve: str, never: str, patterns: tuple[str, ...]
) -> tuple[re.Pattern[str] | None, re.Pattern[str] | None]:
    if never:
        return trigger_sieve(sieve, never, "|".join(patterns))
    return family_sieve(sieve) if sieve else None, None


@lru_cache(maxsize=512)
def _shared_find(pattern: str, where: str) -> tuple[Find, int]:
    if crosses_piece(pattern):
        raise PolicyError(f"output rule {where}: a pattern may not match a character that ends a piece")
    compiled = compile_re2(pattern, f"output rule {where}")
    return finder(compiled), 1 if compiled.groups else 0


@lru_cache(maxsize=512)
def _shared_re(pattern: str, widest: int) -> re.Pattern[str]:
    if bounded_width(pattern) > widest:
        raise PolicyError("output rules: a pattern of this finder must have a bounded length")
    return re.compile(pattern)


def render_placeholder(template: str, kind: str) -> str:
    """The text that stands for a removed value.

    Raises:
        PolicyError: it would be empty (the pieces around could join to what was removed) or has unknown fields.
    """
    try:
        text = template.format(kind=kind)
    except (KeyError, IndexError, ValueError, AttributeError):
        raise PolicyError("output.placeholder: the only field is {kind}") from None
    if not text.strip():
        raise PolicyError(
            "output.placeholder must not be empty: what stood around a value could join to a new one"
        )
    return text


def _allow(entry: AllowEntry) -> tuple[str, Pattern | None]:
    if entry.pattern:
        return "", compile_re2(entry.pattern, "output.allow")
    return entry.text.casefold(), None


def _covers(name: str, spec: RuleSpec) -> bool:
    stem = name.removesuffix("*").removesuffix(".")
    return stem == "" or any(
        n == stem or n.startswith(stem + ".") or fnmatchcase(n, name) for n in (spec.id, spec.category)
    )


def _check_names(policy: OutputPolicy, source: RuleFile) -> None:
    known: Callable[[str], bool] = lambda name: any(_covers(name, spec) for spec in source.rules)  # noqa: E731
    for name in policy.rules:
        if not known(name):
            raise PolicyError(f"output.rules: no rule or category is called {name!r}")
    for entry in policy.allow:
        if not known(entry.rule):
            raise PolicyError(f"output.allow: no rule or category is called {entry.rule!r}")
        if not entry.text and not entry.pattern:
            raise PolicyError("output.allow: an entry needs a text or a pattern")
