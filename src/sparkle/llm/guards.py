"""Both text guards, built from one policy snapshot, so that a call sees one policy from beginning to end."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from sparkle.llm.output import OutputValidator
from sparkle.llm.policy import Policy
from sparkle.llm.policy_source import policy_hash
from sparkle.llm.safety import LLMSafety
from sparkle.llm.safety.build import build_safety
from sparkle.llm.safety.classifier_learned import shipped_classifier

_EVERYDAY = (
    "Explain in two sentences how photosynthesis works, then give me 3 exercises (with answers) for pages 12-15.",
    "请用两句话解释光合作用的原理，然后出三道练习题，并附上答案。第12页到第15页的内容也要包括进去！",
    "def area(r):\n    return 3.14159 * r ** 2  # see https://example.com/docs?page=2\n",
)


@dataclass(frozen=True, slots=True)
class Guards:
    """One policy and the guards compiled from it."""

    policy: Policy
    hash: str
    """Identifies the policy in audit records."""
    safety: LLMSafety
    output: OutputValidator

    @staticmethod
    def build(policy: Policy, *, folder: Path | None = None, wait: bool = False) -> Guards:
        """Compile both guards.

        Args:
            policy: The policy.
            folder: Where the classifier's deep tier keeps its unpacked encoder; ``None``: the user's cache folder.
            wait: Load the deep tier now instead of when a text first needs it.

        Raises:
            PolicyError: The policy names an unknown rule or a pattern that does not compile.
            ConfigurationError: A model file is damaged, or the policy demands a tier that is not installed.
        """
        safety = build_safety(policy.input, folder=folder, wait=wait)
        guards = Guards(policy, policy_hash(policy), safety, OutputValidator(policy.output))
        guards.warm()
        return guards

    def warm(self) -> None:
        """Judge a few everyday texts: automata are built on first use, and no caller should wait for that.

        Without the deep tier: it is loaded by a thread, and threads do not survive the fork of the workers.
        """
        safety = LLMSafety(self.policy.input, classifier=shipped_classifier("off"))
        for text in _EVERYDAY:
            safety.check_text(text)
            self.output.check_text(text)
