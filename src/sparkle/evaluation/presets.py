"""Choosing a preset of the classifier for an evaluation, without writing a policy file for it."""

from __future__ import annotations

import msgspec

from sparkle.errors import PolicyError
from sparkle.llm.policy import InputPolicy, Policy

_FIELD = "preset"


def with_preset(policy: Policy, preset: str | None) -> Policy:
    """``policy`` with ``input.preset`` set; ``None`` leaves it as it is.

    Raises:
        PolicyError: there is no preset of this name.
    """
    if preset is None:
        return policy
    tree = msgspec.to_builtins(policy.input)
    try:
        chosen = msgspec.convert({**tree, _FIELD: preset}, InputPolicy)
    except msgspec.ValidationError as error:
        raise PolicyError(f"input.preset: {error}", param="input.preset") from None
    return msgspec.structs.replace(policy, input=chosen)
