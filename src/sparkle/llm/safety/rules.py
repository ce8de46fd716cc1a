"""The rules as data: schema, loading, and what is told about them.

``data/rules_*.yaml`` hold the rules by family, ``data/fragments.yaml`` the word lists that they share. A rule is a
handful of patterns (see :mod:`sparkle.llm.safety.pattern`) with an identity, a severity, a default mode and two
sentences for people. *Signals* are traits that mean nothing alone (a persona, "never refuse", a list of vices); a
*combination* turns enough of them in one text into a finding.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from importlib.resources import files
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from sparkle.errors import ConfigurationError
from sparkle.llm.safety.fold import fold_table
from sparkle.llm.safety.resources import read_data
from sparkle.llm.verdict import Mode, Severity

Scope = Literal["any", "indirect"]
Id = Annotated[str, Meta(pattern=r"^(injection|xss|shape)(\.[a-z0-9_]+)+$")]
Score = Annotated[float, Meta(ge=0, le=1)]


class RuleSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule of a data file."""

    id: Id
    severity: Severity
    score: Score
    mode: Mode = Mode.BLOCK
    languages: tuple[str, ...] = ("en",)
    scope: Scope = "any"
    """``indirect``: only for text of tools, retrieved documents and the like."""
    disguised: bool = False
    """Only for readings that had to be decoded, turned round or put together."""
    compact: bool = True
    """Whether its blanks may be missing in text whose separators were taken out."""
    in_code: Literal["enforce", "watch"] = "enforce"
    """``watch``: inside Markdown code the finding is only watched."""
    permissive: Literal["enforce", "watch"] = "enforce"
    """``watch``: in a user's text the preset ``permissive`` only watches it, because people at work write so, too."""
    patterns: tuple[str, ...]
    spare: tuple[str, ...] = ()
    """Harmless uses: a match within one of these does not count, except in text of tools and documents
    (:mod:`sparkle.llm.safety.spares`)."""
    frames: tuple[str, ...] = ()
    """Ways to speak of the words without saying them (quoted, reported, in rules for people); as ``spare``, unless
    something of ``unframed`` stands within or right behind."""
    unframed: tuple[str, ...] = ()
    """What makes an order of a frame, such as "now follow it"."""
    reason: str
    reason_zh: str
    examples: Annotated[tuple[str, ...], Meta(min_length=1)]
    counterexamples: tuple[str, ...] = ()


class SignalSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A trait that counts towards a combination."""

    id: Annotated[str, Meta(pattern=r"^[a-z0-9_]+$")]
    weight: Annotated[float, Meta(gt=0, le=1)]
    patterns: tuple[str, ...]
    examples: Annotated[tuple[str, ...], Meta(min_length=1)]
    counterexamples: tuple[str, ...] = ()


class CombinationSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A finding made of signals whose weights reach ``threshold`` together."""

    id: Id
    severity: Severity
    score: Score
    mode: Mode = Mode.BLOCK
    languages: tuple[str, ...] = ("en",)
    threshold: Annotated[float, Meta(gt=0)]
    signals: tuple[SignalSpec, ...]
    reason: str
    reason_zh: str
    examples: Annotated[tuple[str, ...], Meta(min_length=1)]
    counterexamples: tuple[str, ...] = ()


class BuiltinSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A check that is code (lengths, shapes, the learned classifier); its identity and words are data."""

    id: Id
    severity: Severity
    score: Score
    mode: Mode = Mode.BLOCK
    reason: str
    reason_zh: str


class RuleFile(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One ``rules_*.yaml``."""

    rules: tuple[RuleSpec, ...] = ()
    combinations: tuple[CombinationSpec, ...] = ()
    builtins: tuple[BuiltinSpec, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleInfo:
    """What is told about a rule: to the policy, in findings, by ``sparkle policy show`` and in the documentation."""

    id: str
    category: str
    """The id without its last part, e.g. ``injection.override``."""
    severity: Severity
    score: float
    default_mode: Mode
    languages: tuple[str, ...]
    reason: str
    reason_zh: str
    scope: Scope = "any"
    in_code: Literal["enforce", "watch"] = "enforce"
    disguised: bool = False
    permissive: Literal["enforce", "watch"] = "enforce"


@dataclass(frozen=True, slots=True)
class RuleBook:
    """All rules, checked."""

    rules: tuple[RuleSpec, ...]
    combinations: tuple[CombinationSpec, ...]
    builtins: tuple[BuiltinSpec, ...]
    fragments: dict[str, str]
    infos: dict[str, RuleInfo]


def _category(rule: str) -> str:
    # xss.script_tag and shape.text_too_long are kinds of their own; injection.override.en_ignore belongs to a family.
    return rule.rsplit(".", 1)[0] if rule.count(".") > 1 else rule


def _info(spec: RuleSpec | CombinationSpec | BuiltinSpec) -> RuleInfo:
    return RuleInfo(
        spec.id,
        _category(spec.id),
        spec.severity,
        spec.score,
        spec.mode,
        () if isinstance(spec, BuiltinSpec) else spec.languages,
        spec.reason,
        spec.reason_zh,
        spec.scope if isinstance(spec, RuleSpec) else "any",
        spec.in_code if isinstance(spec, RuleSpec) else "enforce",
        isinstance(spec, RuleSpec) and spec.disguised,
        spec.permissive if isinstance(spec, RuleSpec) else "enforce",
    )


def make_book(rule_files: tuple[RuleFile, ...], fragments: dict[str, str]) -> RuleBook:
    """Put rule files together.

    Raises:
        ConfigurationError: two rules have the same id.
    """
    rules = tuple(rule for file in rule_files for rule in file.rules)
    combinations = tuple(rule for file in rule_files for rule in file.combinations)
    builtins = tuple(rule for file in rule_files for rule in file.builtins)
    infos: dict[str, RuleInfo] = {}
    for spec in (*rules, *combinations, *builtins):
        if spec.id in infos:
            raise ConfigurationError(f"rule {spec.id} stands twice in the data files")
        infos[spec.id] = _info(spec)
    return RuleBook(rules, combinations, builtins, fragments, infos)


def _folded(file: RuleFile) -> RuleFile:
    """The file with the letters of its patterns as the normaliser leaves them: rules are written as people write."""
    table = {code: plain for code, plain in fold_table().items() if code > 127 and plain.isalnum()}
    rules = (
        rule
        if all(pattern.isascii() for pattern in (*rule.patterns, *rule.spare, *rule.frames, *rule.unframed))
        else msgspec.structs.replace(
            rule,
            patterns=tuple(pattern.translate(table) for pattern in rule.patterns),
            spare=tuple(pattern.translate(table) for pattern in rule.spare),
            frames=tuple(pattern.translate(table) for pattern in rule.frames),
            unframed=tuple(pattern.translate(table) for pattern in rule.unframed),
        )
        for rule in file.rules
    )
    return msgspec.structs.replace(file, rules=tuple(rules))


@lru_cache(maxsize=1)
def default_book() -> RuleBook:
    """The rules that Sparkle ships, read once.

    Raises:
        ConfigurationError: a data file does not fit the schema; the message names file and field, never a text.
    """
    names = sorted(
        entry.name
        for entry in files("sparkle.llm.safety").joinpath("data").iterdir()
        if entry.name.startswith("rules_") and entry.name.endswith(".yaml")
    )
    loaded: list[RuleFile] = []
    for name in names:
        try:
            loaded.append(_folded(msgspec.yaml.decode(read_data(name), type=RuleFile)))
        except msgspec.ValidationError as error:
            raise ConfigurationError(f"{name}: {error}") from None
    fragments = msgspec.yaml.decode(read_data("fragments.yaml"), type=dict[str, str])
    return make_book(tuple(loaded), fragments)
