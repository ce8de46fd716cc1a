"""A misspelt limit is an error, a secret is never shown, the strongest source wins."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparkle.errors import ConfigurationError
from sparkle.settings import Settings, describe, load_settings

SECRET = "sk-very-secret-value"


def load(**variables: str) -> Settings:
    return load_settings(environ=variables)


def refusal(**variables: str) -> str:
    with pytest.raises(ConfigurationError) as caught:
        load(**variables)
    return caught.value.message


def test_no_variable_gives_the_defaults() -> None:
    assert load() == Settings()


def test_variables_of_others_are_left_alone() -> None:
    assert load(PATH="/bin", SPARKLER="x", HOME="/") == Settings()


def test_addresses_that_kubernetes_puts_into_every_pod_are_no_settings() -> None:
    links = {
        "SPARKLE_SERVICE_HOST": "10.0.0.1",
        "SPARKLE_SERVICE_PORT": "8000",
        "SPARKLE_SERVICE_PORT_HTTP": "8000",
        "SPARKLE_PORT": "tcp://10.0.0.1:8000",
        "SPARKLE_PORT_8000_TCP": "tcp://10.0.0.1:8000",
        "SPARKLE_PORT_8000_TCP_ADDR": "10.0.0.1",
        "SPARKLE_STORE_SERVICE_HOST": "10.0.0.2",
        "SPARKLE_STORE_PORT": "tcp://10.0.0.2:6379",
    }
    assert load(**links) == Settings()


def test_command_line_beats_variable_beats_file(tmp_path: Path) -> None:
    file = tmp_path / "sparkle.yaml"
    file.write_text("server: {port: 1000, workers: 3, host: 0.0.0.0}\nquota: {tokens_per_day: 7}\n")
    got = load_settings(
        file=file,
        environ={"SPARKLE_SERVER__PORT": "2000", "SPARKLE_SERVER__WORKERS": "4"},
        overrides={"server.port": 3000, "server.host": None},
    )
    assert (got.server.port, got.server.workers, got.server.host) == (3000, 4, "0.0.0.0")
    assert got.quota.tokens_per_day == 7


def test_sparkle_config_names_the_file_and_an_argument_beats_it(tmp_path: Path) -> None:
    one, two = tmp_path / "1.yaml", tmp_path / "2.yaml"
    one.write_text("server: {port: 1}")
    two.write_text("server: {port: 2}")
    assert load(SPARKLE_CONFIG=str(one)).server.port == 1
    assert load_settings(file=two, environ={"SPARKLE_CONFIG": str(one)}).server.port == 2


def test_lists_maps_and_sections_are_json() -> None:
    got = load(
        SPARKLE_PROVIDER__ALIASES='{"fast": ["a", "b/c"]}',
        SPARKLE_PROVIDER__UPSTREAMS='[{"name": "a", "base_url": "http://x/v1"}]',
        SPARKLE_QUOTA__TEAM='{"tokens_per_day": 9}',
    )
    assert got.provider.aliases == {"fast": ("a", "b/c")}
    assert got.provider.upstreams[0].base_url == "http://x/v1"
    assert got.quota.team.tokens_per_day == 9


def test_a_nested_variable_beats_its_section_whatever_their_order() -> None:
    section, nested = (
        ("SPARKLE_QUOTA", '{"tokens_per_day": 1, "concurrency": 2}'),
        ("SPARKLE_QUOTA__CONCURRENCY", "3"),
    )
    for order in ((section, nested), (nested, section)):
        quota = load_settings(environ=dict(order)).quota
        assert (quota.tokens_per_day, quota.concurrency) == (1, 3)


@pytest.mark.parametrize(
    ("variable", "hint"),
    [
        ("SPARKLE_QUOTA__TOKENS_PER_DYA", "did you mean SPARKLE_QUOTA__TOKENS_PER_DAY?"),
        ("SPARKLE_PORT", "did you mean SPARKLE_SERVER__PORT?"),
        ("SPARKLE_SEVER__PORT", "did you mean SPARKLE_SERVER__PORT?"),
        ("SPARKLE_QUOTA__TEAM__TOKEN_PER_DAY", "did you mean SPARKLE_QUOTA__TEAM__TOKENS_PER_DAY?"),
    ],
)
def test_an_unknown_variable_is_an_error_that_names_the_near_one(variable: str, hint: str) -> None:
    message = refusal(**{variable: "5"})
    assert variable in message
    assert hint in message


def test_an_unknown_name_far_from_all_gets_no_guess() -> None:
    assert "did you mean" not in refusal(SPARKLE_ZZZZ="1")


def test_an_unknown_key_inside_a_list_is_found_with_its_place() -> None:
    message = refusal(SPARKLE_PROVIDER__UPSTREAMS='[{"name": "a", "base_ur": "x"}]')
    assert (
        'provider.upstreams[0].base_ur (SPARKLE_PROVIDER__UPSTREAMS) unknown name (did you mean "base_url"?)'
        in message
    )
    assert "provider.upstreams[0].base_url (SPARKLE_PROVIDER__UPSTREAMS) is required" in message


def test_all_problems_are_named_at_once() -> None:
    with pytest.raises(ConfigurationError) as caught:
        load(SPARKLE_SERVER__PORT="99999", SPARKLE_QUOTA__TOKENS_PER_DAY="-1", SPARKLE_X="1")
    assert len(caught.value.details["problems"]) == 3


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("SPARKLE_SERVER__PORT", "65536", "<= 65535"),
        ("SPARKLE_SERVER__PORT", "-1", ">= 0"),
        ("SPARKLE_SERVER__PORT", "http", "expected int"),
        ("SPARKLE_SERVER__WORKERS", "0", ">= 1"),
        ("SPARKLE_QUOTA__USD_PER_DAY", "-0.1", ">= 0"),
        ("SPARKLE_QUOTA__LEASE_SECONDS", "0", "> 0"),
        ("SPARKLE_SERVER__REQUIRE_KEYS", "perhaps", "expected"),
        ("SPARKLE_MONITORING__LOG_LEVEL", "loud", "debug, info, warning, error"),
        ("SPARKLE_QUOTA__TIMEZONE", "Mars/Base", "IANA"),
        ("SPARKLE_QUOTA__TIMEZONE", "../etc", "IANA"),
        ("SPARKLE_SERVER", "5", "must be a mapping"),
        ("SPARKLE_PROVIDER__ALIASES", '{"a": "b"}', "expected array"),
        ("SPARKLE_PROVIDER__ALIASES", "{broken", "not valid JSON"),
        ("SPARKLE_PROVIDER__ALIASES__FAST", "a", "expected array"),
    ],
)
def test_a_wrong_value_is_refused_with_what_is_allowed(variable: str, value: str, expected: str) -> None:
    message = refusal(**{variable: value})
    assert variable in message
    assert expected in message


def test_two_upstreams_of_one_name_are_refused() -> None:
    same = '[{"name": "a", "base_url": "x"}, {"name": "a", "base_url": "y"}]'
    assert "'a'" in refusal(SPARKLE_PROVIDER__UPSTREAMS=same)


def test_a_value_over_a_section_is_refused_not_merged(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("server: 8000")
    with pytest.raises(ConfigurationError, match="not a section"):
        load_settings(file=file, environ={"SPARKLE_SERVER__PORT": "1"})


@pytest.mark.parametrize("text", ["server: [", "- a", "5"])
def test_a_file_that_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"s\.yaml"):
        load_settings(file=file, environ={})


def test_a_missing_file_is_an_error_not_the_defaults(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        load_settings(file=tmp_path / "none.yaml", environ={})


def test_an_empty_file_gives_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "s.yaml"
    file.write_text("# nothing yet\n")
    assert load_settings(file=file, environ={}) == Settings()


def test_the_openai_base_url_is_honoured_unless_an_upstream_is_set() -> None:
    assert load(OPENAI_BASE_URL="http://o/v1").provider.upstream == "http://o/v1"
    assert (
        load(OPENAI_BASE_URL="http://o/v1", SPARKLE_PROVIDER__UPSTREAM="http://s/v1").provider.upstream
        == "http://s/v1"
    )


def secretive() -> Settings:
    upstream = {"name": "a", "base_url": f"https://me:{SECRET}@host/v1", "api_key": SECRET}
    return load(
        SPARKLE_PROVIDER__UPSTREAMS=json.dumps([upstream]),
        SPARKLE_PROVIDER__UPSTREAM=f"http://{SECRET}@host/v1",
        SPARKLE_QUOTA__STORE_URL=f"redis://me:{SECRET}@store:6379/0",
    )


def test_no_secret_is_shown_by_repr_or_listing() -> None:
    settings = secretive()
    assert settings.provider.upstreams[0].api_key == SECRET
    shown = repr(settings) + repr(settings.provider.upstreams) + str(list(describe(settings)))
    assert SECRET not in shown
    assert "redis://***@store:6379/0" in shown
    assert "https://***@host/v1" in shown


def test_no_secret_is_repeated_by_an_error() -> None:
    upstream = {"name": 5, "base_url": "x", "api_key": SECRET, "key": SECRET}
    assert SECRET not in refusal(SPARKLE_PROVIDER__UPSTREAMS=json.dumps([upstream]))
    assert SECRET not in refusal(SPARKLE_PROVIDER__UPSTREAMS='[{"api_key": "' + SECRET)
    assert SECRET not in refusal(SPARKLE_QUOTA__TOKENS_PER_DAY=SECRET)


def test_the_listing_explains_every_setting() -> None:
    rows = list(describe())
    assert len(rows) > 40
    assert all(meaning.strip() for _, _, meaning in rows)
    assert ("SPARKLE_QUOTA__TOKENS_PER_DAY", "100000", "Tokens (prompt and answer) per user and day.") in rows


def test_every_listed_variable_can_be_set_to_what_is_listed() -> None:
    listed = {variable: value for variable, value, _ in describe() if value not in ("null", "")}
    assert load(**listed) == Settings()


@given(
    st.dictionaries(st.from_regex(r"\ASPARKLE_[A-Z_]{1,20}\Z"), st.text(max_size=20), min_size=1, max_size=3)
)
def test_any_environment_gives_settings_or_a_configuration_error(environ: dict[str, str]) -> None:
    environ.pop("SPARKLE_CONFIG", None)
    with contextlib.suppress(ConfigurationError):
        load_settings(environ=environ)
