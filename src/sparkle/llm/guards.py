"""Both text guards, built from one policy snapshot, so that a call sees one policy from beginning to end."""

from __future__ import annotations

from dataclasses import dataclass

from sparkle.llm.output import OutputValidator
from sparkle.llm.policy import Policy
from sparkle.llm.policy_source import policy_hash
from sparkle.llm.safety import LLMSafety


@dataclass(frozen=True, slots=True)
class Guards:
    """One policy and the guards compiled from it."""

    policy: Policy
    hash: str
    """Identifies the policy in audit records."""
    safety: LLMSafety
    output: OutputValidator

    @staticmethod
    def build(policy: Policy) -> Guards:
        """Compile both guards.

        Raises:
            PolicyError: The policy names an unknown rule or a pattern that does not compile.
        """
        return Guards(policy, policy_hash(policy), LLMSafety(policy.input), OutputValidator(policy.output))
