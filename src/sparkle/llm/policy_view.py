"""What a policy amounts to: the mode of every rule of both guards, and where that mode comes from."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from sparkle.errors import PolicyError
from sparkle.llm.output import OutputValidator
from sparkle.llm.policy import Policy, deciding_key
from sparkle.llm.policy_file import load_policy, policy_hash
from sparkle.llm.safety import LLMSafety
from sparkle.llm.safety.build import build_safety
from sparkle.llm.verdict import Mode, Severity


class RuleDescription(Protocol):
    """A rule as both guards describe theirs."""

    @property
    def id(self) -> str:
        """E.g. ``injection.override.en_ignore``."""
        ...

    @property
    def category(self) -> str:
        """Its family."""
        ...

    @property
    def severity(self) -> Severity:
        """How bad a true finding is."""
        ...

    @property
    def default_mode(self) -> Mode:
        """Its mode where the policy does not name it."""
        ...

    @property
    def reason(self) -> str:
        """One English sentence."""
        ...

    @property
    def reason_zh(self) -> str:
        """The same in Chinese."""
        ...


def policy_problems(path: str) -> list[str]:
    """Every problem of a policy file, guards' own checks of rule names included; empty if it may go into force."""
    try:
        policy = load_policy(path)
    except PolicyError as exc:
        return [str(problem) for problem in exc.details.get("problems", [exc.message])]
    problems: list[str] = []
    for build in (lambda: build_safety(policy.input), lambda: OutputValidator(policy.output)):
        try:
            build()
        except PolicyError as exc:
            problems.append(f"{path}: {exc.message}")
    return problems


def policy_rows(policy: Policy) -> list[dict[str, object]]:
    """Every rule of both layers: layer, rule, category, severity, mode, source of the mode, reasons.

    Raises:
        PolicyError: The policy names a rule that no guard has.
    """
    return [
        *_rows("input", LLMSafety(policy.input).rules, policy.input.rules),
        *_rows("output", OutputValidator(policy.output).rules, policy.output.rules),
    ]


def policy_summary(policy: Policy) -> dict[str, object]:
    """Name, hash, how each layer fails, and how roles are trusted."""
    return {
        "name": policy.name,
        "hash": policy_hash(policy),
        "on_error": {
            "input": policy.input.on_error,
            "quota": policy.quota.on_error,
            "output": policy.output.on_error,
            "monitoring": policy.monitoring.on_error,
        },
        "roles": policy.input.roles,
    }


def _rows(layer: str, rules: Iterable[RuleDescription], modes: dict[str, Mode]) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for rule in sorted(rules, key=lambda rule: rule.id):
        key = deciding_key(modes, rule.id, rule.category)
        rows.append(
            {
                "layer": layer,
                "rule": rule.id,
                "category": rule.category,
                "severity": str(rule.severity),
                "mode": str(rule.default_mode if key is None else modes[key]),
                "source": "default" if key is None else f"{layer}.rules: {key}",
                "reason": rule.reason,
                "reason_zh": rule.reason_zh,
            }
        )
    return rows
