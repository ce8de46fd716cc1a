"""What is checked about the local model before any process is started."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from pathlib import Path

import msgspec
import pytest

from sparkle.errors import ConfigurationError, MissingExtraError
from sparkle.llm.providers import LocalModel, local_settings
from sparkle.settings import ProviderSettings


def nothing_installed(name: str) -> ModuleSpec | None:
    return None


def test_a_model_file_that_is_not_there_is_told_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="local_model"):
        LocalModel(ProviderSettings(local_model=str(tmp_path / "nowhere.gguf")), tmp_path)


def test_a_missing_extra_is_told_with_the_command_that_installs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local_settings, "find_spec", nothing_installed)
    with pytest.raises(MissingExtraError, match=r"sparkle-llm\[local\]"):
        LocalModel(ProviderSettings(), tmp_path)


def test_it_is_wanted_only_where_nothing_else_answers(tmp_path: Path) -> None:
    assert LocalModel.wanted(ProviderSettings(upstream="http://127.0.0.1:9/v1"), tmp_path) is None


def test_the_childs_configuration_shows_no_key() -> None:
    config = local_settings.ChildConfig(1, "sk-local-secret", 1, 2, "m.gguf", 1)
    assert "secret" not in repr(config)
    assert b"secret" in msgspec.json.encode(config)
