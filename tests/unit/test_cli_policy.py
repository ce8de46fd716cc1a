"""`sparkle policy` says every problem, and what every rule does and why."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from sparkle.cli import main
from sparkle.llm.policy_source import default_policy_text, parse_policy


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, ["policy", *args], env=env)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "policy.yaml"


def rules(result: Result) -> dict[str, dict[str, Any]]:
    assert result.exit_code == 0, result.output
    return {rule["rule"]: rule for rule in json.loads(result.stdout)["rules"]}


def test_the_shipped_policy_has_no_problems(file: Path) -> None:
    file.write_text(default_policy_text())
    result = run("check", str(file))
    assert (result.exit_code, result.stdout) == (0, f"{file}: no problems\n")


def test_every_problem_has_a_line_and_the_exit_code_tells(file: Path) -> None:
    file.write_text("input:\n  rules: {xss: blok}\noutput:\n  canry: true\n")
    result = run("check", str(file))
    assert result.exit_code == 1
    assert len(result.stderr.splitlines()) == 2
    assert f'{file}:2: input.rules.xss: must be one of block, redact, watch, off; is "blok"' in result.stderr


@pytest.mark.parametrize("layer", ["input", "output"])
def test_a_rule_that_no_guard_has_is_a_problem(file: Path, layer: str) -> None:
    file.write_text(f"{layer}:\n  rules: {{no.such_rule: off}}\n")
    result = run("check", str(file))
    assert result.exit_code == 1
    assert "no.such_rule" in result.stderr


def test_a_missing_file_is_a_problem(file: Path) -> None:
    result = run("check", str(file))
    assert result.exit_code == 1
    assert "No such file" in result.stderr


def test_show_lists_the_rules_of_both_layers_in_both_languages() -> None:
    shown = rules(run("show", "--json"))
    assert {rule["layer"] for rule in shown.values()} == {"input", "output"}
    assert len(shown) > 50
    for rule in shown.values():
        assert rule["mode"] in {"block", "redact", "watch", "off"}
        assert rule["severity"] in {"low", "medium", "high", "critical"}
        assert rule["source"] == "default"
        assert rule["reason"]
        assert any("一" <= char <= "鿿" for char in rule["reason_zh"])


def test_show_names_what_set_a_mode(file: Path) -> None:
    file.write_text("name: mine\ninput:\n  rules: {injection: watch, injection.override: off}\n")
    shown = rules(run("show", str(file), "--json"))
    overrides = [rule for rule in shown.values() if rule["category"] == "injection.override"]
    extraction = [rule for rule in shown.values() if rule["category"] == "injection.prompt_extraction"]
    assert overrides
    assert extraction
    assert {(r["mode"], r["source"]) for r in overrides} == {("off", "input.rules: injection.override")}
    assert {(r["mode"], r["source"]) for r in extraction} == {("watch", "input.rules: injection")}


def test_show_without_a_file_shows_the_policy_of_the_settings(file: Path) -> None:
    file.write_text("name: from-settings\n")
    shown = json.loads(run("show", "--json", env={"SPARKLE_POLICY": str(file)}).stdout)
    assert shown["name"] == "from-settings"
    assert shown["on_error"] == {
        "input": "closed",
        "quota": "closed",
        "output": "closed",
        "monitoring": "open",
    }


def test_a_pipe_gets_one_line_a_rule() -> None:
    result = run("show")
    assert all(line.split("\t")[0] in ("input", "output") for line in result.stdout.splitlines())


def test_the_shipped_file_can_be_printed_and_used() -> None:
    printed = run("show", "--yaml").stdout
    assert parse_policy(printed, source="printed") == parse_policy(default_policy_text(), source="shipped")


def test_show_of_a_wrong_file_is_told_in_a_sentence(file: Path) -> None:
    file.write_text("nonsense: 1")
    result = run("show", str(file))
    assert result.exit_code == 1
    assert "nonsense: unknown name" in result.stderr
