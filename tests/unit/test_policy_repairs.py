"""A policy that cannot be meant is refused: exceptions to unknown rules, and paths that are no file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from sparkle.errors import PolicyError
from sparkle.llm.output import OutputValidator
from sparkle.llm.policy import AllowEntry, InputPolicy, OutputPolicy
from sparkle.llm.policy_file import load_policy
from sparkle.llm.safety import LLMSafety


def test_a_pipe_is_refused_and_not_waited_for(tmp_path: Path) -> None:
    pipe = tmp_path / "policy.yaml"
    os.mkfifo(pipe)
    with pytest.raises(PolicyError, match="not a regular file"):
        load_policy(pipe)


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PolicyError, match="not a regular file"):
        load_policy(tmp_path)


@pytest.mark.parametrize("rule", ["injection.overide", "pii.email", "xss.nothing.*"])
def test_an_input_exception_to_an_unknown_rule_is_an_error(rule: str) -> None:
    with pytest.raises(PolicyError, match=r"input\.allow\[1\]\.rule: no rule or category is called"):
        LLMSafety(InputPolicy(allow=(AllowEntry(text="x"), AllowEntry(rule=rule, text="x"))))


def test_an_output_exception_to_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(PolicyError, match=r"output\.allow: no rule or category is called 'pii\.emial'"):
        OutputValidator(OutputPolicy(allow=(AllowEntry(rule="pii.emial", text="x"),)))
