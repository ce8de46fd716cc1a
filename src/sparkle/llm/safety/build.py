"""The input guard as a policy wants it: rules and the shipped classifier."""

from __future__ import annotations

from pathlib import Path

from sparkle.llm.policy import InputPolicy
from sparkle.llm.safety.classifier_learned import shipped_classifier
from sparkle.llm.safety.guard import LLMSafety


def build_safety(policy: InputPolicy, *, folder: Path | None = None, wait: bool = False) -> LLMSafety:
    """The guard with the shipped classifier; its weights are read once a process.

    Args:
        policy: modes, presets and whether the deep tier is asked.
        folder: where the deep tier keeps its unpacked encoder; ``None``: the user's cache folder.
        wait: load the deep tier now; otherwise the first text that needs it does.

    Raises:
        PolicyError: the policy names no known rule, or an exception's pattern is not valid RE2.
        MissingExtraError: ``policy.deep`` is ``on`` and the extra is not installed.
        ModelFileError: a model file of the package is damaged.
    """
    return LLMSafety(policy, classifier=shipped_classifier(policy.deep, folder=folder, wait=wait))
