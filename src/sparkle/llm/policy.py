"""What is forbidden, redacted, only watched: the policy, as data.

A policy is an immutable snapshot. Guards are built from one; :mod:`sparkle.llm.policy_source` reads files, checks
them and swaps snapshots while the server runs. Only the server's policy switches a rule off; a caller never can.
"""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from sparkle.llm.verdict import Mode

Trust = Literal["trusted", "watch", "untrusted", "indirect", "off"]
"""How a role's text is judged: ``trusted`` only for shape; ``watch`` all rules, none enforced; ``untrusted`` all rules;
``indirect`` all rules plus those for instructions hidden in data; ``off`` not at all."""

FailMode = Literal["closed", "open"]

DEFAULT_ROLES: dict[str, Trust] = {
    "system": "trusted",
    "developer": "trusted",
    "assistant": "watch",
    "user": "untrusted",
    "tool": "indirect",
    "function": "indirect",
    "retrieved": "indirect",
}


class AllowEntry(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An exception from rules: a finding whose matched text fits is dropped."""

    rule: Annotated[str, Meta(description="Rule id, category or glob the exception is for.")] = "*"
    text: Annotated[str, Meta(description="Exact matched text, compared without case.")] = ""
    pattern: Annotated[str, Meta(description="RE2 pattern that must match the whole matched text.")] = ""
    note: Annotated[str, Meta(description="Why; shown by `sparkle policy show`.")] = ""


class InputLimits(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Lengths and shapes of a request, in code points unless said."""

    max_text_chars: Annotated[int, Meta(ge=1)] = 200_000
    max_total_chars: Annotated[int, Meta(ge=1)] = 1_000_000
    max_messages: Annotated[int, Meta(ge=1)] = 1_000
    max_parts: Annotated[int, Meta(ge=1)] = 1_000
    max_strings: Annotated[
        int, Meta(ge=1, description="Separate strings of a request, names of its own making included.")
    ] = 5_000
    max_combining_run: Annotated[int, Meta(ge=1)] = 12
    max_invisible_ratio: Annotated[float, Meta(gt=0, le=1)] = 0.2


class InputPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Layer 1."""

    on_error: Annotated[FailMode, Meta(description="What a crash of this layer means for the call.")] = (
        "closed"
    )
    rules: Annotated[
        dict[str, Mode], Meta(description="Rule id, category or glob to mode; the longest match wins.")
    ] = {}
    roles: dict[str, Trust] = {}
    limits: InputLimits = InputLimits()
    allow: tuple[AllowEntry, ...] = ()
    remember: Annotated[
        int,
        Meta(
            ge=0,
            le=1_000_000,
            description="Harmless texts a worker remembers, so that earlier turns are not judged again; 0: none.",
        ),
    ] = 8_192
    preset: Annotated[
        Literal["strict", "balanced", "permissive"],
        Meta(
            description="How much evidence the learned classifier needs to block: strict the least. permissive also "
            "only watches, in users' texts, the rules that the rule reference marks so, unless rules says otherwise."
        ),
    ] = "balanced"
    deep: Annotated[
        Literal["auto", "on", "off"],
        Meta(
            description="The classifier's deep tier: auto asks it if the extra deep is installed, on demands it."
        ),
    ] = "auto"


class OutputPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Layer 4."""

    on_error: FailMode = "closed"
    rules: dict[str, Mode] = {}
    allow: tuple[AllowEntry, ...] = ()
    placeholder: Annotated[str, Meta(description="Replacement; {kind} is the finding's kind.")] = (
        "[REDACTED:{kind}]"
    )
    render: Annotated[
        Literal["text", "html"], Meta(description="html: whole answers are sanitised with nh3 as HTML.")
    ] = "text"
    canary: Annotated[
        bool,
        Meta(
            description="Add an invisible-to-users canary line to system prompts and look for it in answers."
        ),
    ] = False
    prompt_overlap_chars: Annotated[
        int,
        Meta(
            ge=0,
            description="An answer repeating this many characters of the system prompt leaks it; 0: off.",
        ),
    ] = 64


class QuotaPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Layer 2: only how it fails; the limits are settings."""

    on_error: FailMode = "closed"


class MonitoringPolicy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Layer 5: a lost audit record does not stop a call unless this says so."""

    on_error: FailMode = "open"


class Policy(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One snapshot of the rules of the house."""

    version: Literal[1] = 1
    name: str = "default"
    input: InputPolicy = InputPolicy()
    output: OutputPolicy = OutputPolicy()
    quota: QuotaPolicy = QuotaPolicy()
    monitoring: MonitoringPolicy = MonitoringPolicy()


def mode_for(rules: dict[str, Mode], rule: str, category: str, default: Mode) -> Mode:
    """The mode of a rule: an exact rule id wins over its category, that over the longest glob, that over ``default``.

    A category key also covers its sub-categories: ``injection`` covers ``injection.override``.
    """
    key = deciding_key(rules, rule, category)
    return default if key is None else rules[key]


def deciding_key(rules: dict[str, Mode], rule: str, category: str) -> str | None:
    """The entry of ``rules`` that sets a rule's mode, by the order of :func:`mode_for`; ``None``: its default does."""
    if rule in rules:
        return rule
    best: str | None = None
    length = -1
    for key in rules:
        stem = key.removesuffix("*").removesuffix(".")
        covers = any(name == stem or name.startswith(stem + ".") for name in (rule, category)) or stem == ""
        if covers and len(stem) > length:
            best, length = key, len(stem)
    return best
