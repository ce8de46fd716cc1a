"""The key and settings commands: usable by people and by programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from sparkle.cli import main
from sparkle.server.keys import KeyStore


def run(*args: str, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, args, env=env)


def keys(folder: Path, *args: str) -> Result:
    return run("keys", *args, "--data-dir", str(folder))


def test_a_created_key_is_printed_alone_and_works(tmp_path: Path) -> None:
    result = keys(
        tmp_path, "create", "--user", "alice", "--team", "maths", "--model", "gpt-*", "--model", "local"
    )
    assert result.exit_code == 0
    key = result.stdout.strip()
    who = KeyStore(tmp_path / "keys.db").verify(key)
    assert (who.user, who.team, who.models) == ("alice", "maths", ("gpt-*", "local"))
    assert "only a digest is stored" in result.stderr


def test_a_program_gets_json(tmp_path: Path) -> None:
    made = json.loads(keys(tmp_path, "create", "--user", "alice", "--expires", "30d", "--json").stdout)
    assert set(made) == {"id", "key"}
    (listed,) = json.loads(keys(tmp_path, "list", "--json").stdout)
    assert listed["id"] == made["id"]
    assert listed["state"] == "active"
    assert listed["expires"].endswith("Z")
    revoked = json.loads(keys(tmp_path, "revoke", made["id"], "--json").stdout)
    assert revoked["state"] == "revoked"


def test_a_pipe_gets_one_line_a_key(tmp_path: Path) -> None:
    keys(tmp_path, "create", "--user", "alice")
    keys(tmp_path, "create", "--user", "bob")
    lines = keys(tmp_path, "list").stdout.splitlines()
    assert [line.split("\t")[1] for line in lines] == ["alice", "bob"]


def test_no_secret_is_listed(tmp_path: Path) -> None:
    key = keys(tmp_path, "create", "--user", "alice").stdout.strip()
    listed = keys(tmp_path, "list", "--json").stdout + keys(tmp_path, "list").stdout
    assert key[24:] not in listed


def test_a_revoked_key_is_refused(tmp_path: Path) -> None:
    made = json.loads(keys(tmp_path, "create", "--user", "alice", "--json").stdout)
    assert keys(tmp_path, "revoke", made["id"]).exit_code == 0
    assert "revoked" in keys(tmp_path, "list").stdout


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (("revoke", "nobody"), "there is no key with this id"),
        (("create", "--user", ""), "user must be"),
        (("create", "--user", "a", "--expires", "soon"), "30d"),
        (("create",), "--user"),
    ],
)
def test_a_mistake_is_told_in_a_sentence_and_an_exit_code(
    tmp_path: Path, args: tuple[str, ...], said: str
) -> None:
    result = keys(tmp_path, *args)
    assert result.exit_code in (1, 2)
    assert said in result.stderr
    assert "Traceback" not in result.output


def test_settings_lists_what_is_in_force_and_hides_secrets() -> None:
    env = {"SPARKLE_QUOTA__STORE_URL": "redis://u:hunter2@h/0", "SPARKLE_SERVER__PORT": "9"}
    listed = json.loads(run("settings", "--json", env=env).stdout)
    values = {row["variable"]: row["value"] for row in listed}
    assert values["SPARKLE_SERVER__PORT"] == "9"
    assert values["SPARKLE_QUOTA__STORE_URL"] == "redis://***@h/0"
    assert all(row["meaning"] for row in listed)
    assert "SPARKLE_SERVER__PORT\t9\t" in run("settings", env=env).stdout


def test_settings_reads_a_file_and_tells_what_is_wrong_with_it(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("server: {prot: 1}")
    result = run("settings", "--config", str(file))
    assert result.exit_code == 1
    assert "did you mean SPARKLE_SERVER__PORT?" in result.stderr


def test_a_terminal_gets_a_table(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    from sparkle.cli_output import print_rows

    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    print_rows(("name", "value"), [{"name": "[bold]a[/bold]", "value": ["x", "y"]}], as_json=False)
    shown = capsys.readouterr().out
    assert "[bold]a[/bold]" in shown
    assert "x, y" in shown
