"""Rules as data: the schema of the YAML files beside this module, and their compiled form.

A *family* has a trigger, a short RE2 pattern that must occur wherever one of its rules can match. One automaton looks
for all triggers at once; only the rules of families that were triggered run. ``finder`` says how:

- ``piece``: RE2 patterns on the run around the trigger; group 1, if any, is the value. They may not match a character
  that ends a piece, so a value never crosses the point where a stream is cut.
- ``number``: patterns of bounded length on a chain of digits, tried at every start.
- ``assign``: a key word, an assignment and a value; group 1 of the trigger's pattern is the key word.
- ``builtin``: found by code (private keys, active content, leaked prompts).
"""

from __future__ import annotations

from functools import lru_cache
from importlib import resources
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from sparkle.errors import PolicyError
from sparkle.llm.verdict import Mode, Severity

Finder = Literal["piece", "number", "assign", "builtin"]
_FILES = (
    "secrets.yaml",
    "assign.yaml",
    "contact.yaml",
    "identity.yaml",
    "network.yaml",
    "active.yaml",
    "leak.yaml",
)


class FamilySpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How the rules of a family are found."""

    finder: Finder
    trigger: Annotated[
        str, Meta(description="RE2; occurs wherever a rule of the family matches, near its beginning.")
    ]
    near: Annotated[
        str, Meta(description="Words that must stand right before the trigger and before a value.")
    ] = ""
    gap: Annotated[str, Meta(description="What may stand between those words and the trigger.")] = ""
    hint: Annotated[
        str,
        Meta(
            description="RE2; occurs wherever the trigger does, and remembers little of what came before (triggers.py)."
        ),
    ] = ""

    sieve: Annotated[
        str,
        Meta(
            description="Standard library, verbose; alternatives that begin with a letter or sign make it fast. "
            "piece: occurs in every segment in which a rule of the family accepts a value. assign: the trigger."
        ),
    ] = ""
    never: Annotated[
        str, Meta(description="Standard library; what begins so behind an assign trigger is turned down.")
    ] = ""

    @property
    def led(self) -> str:
        """What must stand right before a value, any case; empty when nothing must."""
        return f"(?:{self.near}){self.gap}" if self.near else ""

    @property
    def whole_trigger(self) -> str:
        """The trigger with the words that must stand before it."""
        return f"(?i:{self.led}){self.trigger}" if self.near else self.trigger

    @property
    def first_hint(self) -> str:
        """What is looked for before the trigger; empty when the trigger is looked for at once."""
        return self.hint or (f"(?i:{self.near})" if self.near else "")


class RuleSpec(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One rule as written in YAML; also its public description."""

    id: Annotated[str, Meta(pattern=r"^(pii|secret|active|leak)\.[a-z0-9_]+$")]
    family: str
    kind: Annotated[str, Meta(pattern=r"^[a-z_]+$", description="Stands in the placeholder.")]
    severity: Severity
    score: Annotated[float, Meta(gt=0, le=1)]
    mode: Annotated[Mode, Meta(description="Default; the policy may change it.")] = Mode.REDACT
    patterns: tuple[str, ...] = ()
    screens: Annotated[
        tuple[str, ...],
        Meta(
            description="Instead of the patterns in the screen: what the check may accept, and little more."
        ),
    ] = ()
    sieves: Annotated[
        tuple[str, ...], Meta(description="Candidates whose check digits are added up together (sieve.py).")
    ] = ()
    whole: Annotated[bool, Meta(description="The check turns down what is glued to a longer word.")] = False
    check: Annotated[str, Meta(description="Function of checks.py that has the last word.")] = ""
    weight: Annotated[
        int, Meta(ge=1, le=8, description="What judging one value takes, in units of 40 us.")
    ] = 1
    reason: str
    reason_zh: str
    examples: tuple[str, ...] = ()
    counterexamples: tuple[str, ...] = ()

    @property
    def category(self) -> str:
        """Rule family for policies, e.g. ``pii.email``: prefix and kind."""
        return f"{self.id.split('.', 1)[0]}.{self.kind}"


class RuleFile(Struct, frozen=True, forbid_unknown_fields=True):
    """One YAML file."""

    rules: tuple[RuleSpec, ...]
    families: dict[str, FamilySpec] = {}


@lru_cache(maxsize=1)
def load_rule_files() -> RuleFile:
    """All rule files as one, checked against the schema.

    Raises:
        PolicyError: a file does not fit the schema, or two rules share an id.
    """
    rules: list[RuleSpec] = []
    families: dict[str, FamilySpec] = {}
    for name in _FILES:
        data = resources.files("sparkle.llm.output").joinpath("data", name).read_bytes()
        try:
            part = msgspec.yaml.decode(data, type=RuleFile)
        except msgspec.ValidationError as error:
            raise PolicyError(f"output rules {name}: {error}") from None
        rules += part.rules
        families |= part.families
    if len({r.id for r in rules}) != len(rules):
        raise PolicyError("output rules: two rules share an id")
    return RuleFile(rules=tuple(rules), families=families)
