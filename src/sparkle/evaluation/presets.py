"""Choosing a preset of the classifier for an evaluation, without writing a policy file for it."""

from __future__ import annotations

from typing import get_args

import msgspec

from sparkle.errors import PolicyError
from sparkle.llm.policy import InputPolicy, Policy
from sparkle.llm.safety.classifier import Preset
from sparkle.validation import did_you_mean

_FIELD = "preset"
_PRESETS: tuple[str, ...] = get_args(Preset)


def with_preset(policy: Policy, preset: str | None) -> Policy:
    """``policy`` with ``input.preset`` set; ``None`` leaves it as it is.

    Raises:
        PolicyError: there is no preset of this name.
    """
    if preset is None:
        return policy
    if preset not in _PRESETS:
        hint = did_you_mean(preset, _PRESETS) or f"; there are {', '.join(_PRESETS)}"
        raise PolicyError(f"there is no preset {preset[:40]!r}{hint}", param="input.preset")
    tree = msgspec.to_builtins(policy.input)
    chosen = msgspec.convert({**tree, _FIELD: preset}, InputPolicy)
    return msgspec.structs.replace(policy, input=chosen)
