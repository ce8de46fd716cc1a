"""From a model's name to the upstreams that may answer."""

from __future__ import annotations

import pytest

from sparkle.errors import ConfigurationError, NotFoundError
from sparkle.llm.providers import Upstream
from sparkle.llm.providers.routes import Routes

A = Upstream("a", "http://a.example/v1", models=("gpt-*", "o?"))
B = Upstream("b", "http://b.example/v1", models=("gpt-4o", "qwen/qwen-7b"))
REST = Upstream("rest", "http://rest.example/v1")


def resolved(routes: Routes, model: str) -> list[tuple[str, str]]:
    return [(upstream.name, name) for upstream, name in routes.resolve(model)]


def test_upstreams_whose_globs_match_answer_in_the_order_of_the_settings() -> None:
    routes = Routes([A, B, REST], {})
    assert resolved(routes, "gpt-4o") == [("a", "gpt-4o"), ("b", "gpt-4o")]
    assert resolved(routes, "o3") == [("a", "o3")]


def test_a_model_that_nobody_names_goes_to_the_upstream_without_globs() -> None:
    assert resolved(Routes([A, B, REST], {}), "llama") == [("rest", "llama")]


def test_a_model_that_nobody_serves_is_not_found_and_not_repeated() -> None:
    with pytest.raises(NotFoundError) as caught:
        Routes([A, B], {}).resolve("secret-name")
    assert caught.value.param == "model"
    assert caught.value.body()["error"]["code"] == "model_not_found"
    assert "secret-name" not in caught.value.message


def test_an_alias_names_its_candidates_in_order() -> None:
    routes = Routes([A, B, REST], {"fast": ("b/qwen/qwen-7b", "rest/small", "gpt-4o")})
    assert resolved(routes, "fast") == [
        ("b", "qwen/qwen-7b"),
        ("rest", "small"),
        ("a", "gpt-4o"),
        ("b", "gpt-4o"),
    ]


def test_a_slash_belongs_to_the_model_unless_an_upstream_has_that_name() -> None:
    assert resolved(Routes([B], {"x": ("qwen/qwen-7b",)}), "x") == [("b", "qwen/qwen-7b")]


def test_aliases_that_cannot_work_are_refused_at_the_start() -> None:
    with pytest.raises(ConfigurationError, match="'x' names 'llama'"):
        Routes([A, B], {"x": ("llama",)})
    with pytest.raises(ConfigurationError, match="no candidates"):
        Routes([A], {"x": ()})


def test_two_upstreams_of_one_name_are_refused() -> None:
    with pytest.raises(ConfigurationError, match="same name"):
        Routes([A, Upstream("a", "http://c.example")], {})


def test_known_models_are_those_the_settings_spell_out() -> None:
    assert set(Routes([A, B, REST], {"fast": ("rest/small",)}).known_models()) == {
        "fast",
        "small",
        "gpt-4o",
        "qwen/qwen-7b",
    }


def test_listed_models_are_aliases_first_and_each_name_once() -> None:
    routes = Routes([A, B, REST], {"fast": ("rest/small",)})
    listed = routes.listed(
        {"a": [{"id": "gpt-4o"}, {"id": "o3"}], "rest": [{"id": "gpt-4o"}, {"id": "small"}]}
    )
    assert [model["id"] for model in listed] == ["fast", "gpt-4o", "o3", "qwen/qwen-7b", "small"]
