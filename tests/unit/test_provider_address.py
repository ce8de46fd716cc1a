"""Base URLs, proxies, and routers built from settings."""

from __future__ import annotations

import pytest
from tests.support.providers import KEY

from sparkle.errors import ConfigurationError
from sparkle.llm.providers import build_router, needs_local
from sparkle.llm.providers.address import parse_address, proxy_for
from sparkle.settings import ProviderSettings, UpstreamSettings


@pytest.mark.parametrize(
    ("base_url", "authority", "target"),
    [
        ("https://api.example.com/v1", "api.example.com", "/v1/chat/completions"),
        ("https://api.example.com/v1/", "api.example.com", "/v1/chat/completions"),
        ("http://127.0.0.1:9000", "127.0.0.1:9000", "/v1/chat/completions"),
        ("http://[::1]:9000/", "[::1]:9000", "/v1/chat/completions"),
        ("http://host:80/api/openai", "host", "/api/openai/chat/completions"),
        (
            "https://x.example/openai/v1?api-version=7",
            "x.example",
            "/openai/v1/chat/completions?api-version=7",
        ),
    ],
)
def test_a_base_url_is_taken_apart(base_url: str, authority: str, target: str) -> None:
    address = parse_address(base_url, "up")
    assert address.authority == authority
    assert address.target("/chat/completions") == target


@pytest.mark.parametrize(
    "base_url", ["ftp://x/v1", "api.example.com", "http://", f"https://user:{KEY}@x/v1", "http://x:port/v1", "http://x/\u00e9"]
)  # fmt: skip
def test_a_wrong_base_url_is_refused_without_quoting_it(base_url: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        parse_address(base_url, "up")
    assert "'up'" in caught.value.message
    assert KEY not in caught.value.message


PROXY = {"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "internal.example,.corp, 10.0.0.0/8,only:8443"}


@pytest.mark.parametrize(
    ("base_url", "environ", "proxy"),
    [
        ("https://api.example.com/v1", PROXY, "http://proxy:3128"),
        ("http://api.example.com/v1", PROXY, None),
        ("https://internal.example/v1", PROXY, None),
        ("https://deep.internal.example/v1", PROXY, None),
        ("https://notinternal.example/v1", PROXY, "http://proxy:3128"),
        ("https://llm.corp/v1", PROXY, None),
        ("https://10.1.2.3/v1", PROXY, None),
        ("https://11.1.2.3/v1", PROXY, "http://proxy:3128"),
        ("https://only:8443/v1", PROXY, None),
        ("https://only/v1", PROXY, "http://proxy:3128"),
        ("https://localhost/v1", PROXY, None),
        ("https://127.0.0.9/v1", PROXY, None),
        ("http://x.example/v1", {"all_proxy": "proxy:1"}, "http://proxy:1"),
        ("http://x.example/v1", {"all_proxy": "proxy:1", "no_proxy": "*"}, None),
        ("http://x.example/v1", {}, None),
    ],
)
def test_the_proxy_variables_are_honoured_but_not_for_loopback(
    base_url: str, environ: dict[str, str], proxy: str | None
) -> None:
    assert proxy_for(parse_address(base_url, "up"), environ) == proxy


def test_the_local_model_is_needed_only_where_nothing_else_answers_or_an_alias_names_it() -> None:
    remote = UpstreamSettings(name="a", base_url="http://a.example")
    assert needs_local(ProviderSettings())
    assert not needs_local(ProviderSettings(upstream="http://a.example"))
    assert not needs_local(ProviderSettings(upstreams=(remote,)))
    assert needs_local(ProviderSettings(upstreams=(remote,), aliases={"fast": ("a/x", "local/smollm2")}))


def test_a_router_without_any_upstream_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="no upstream"):
        build_router(ProviderSettings(), environ={})


def test_a_key_variable_that_is_not_set_is_refused_at_the_start() -> None:
    one = UpstreamSettings(name="a", base_url="http://a.example", api_key_env="A_KEY")
    with pytest.raises(ConfigurationError, match="A_KEY is not set"):
        build_router(ProviderSettings(upstreams=(one,)), environ={})
    assert KEY not in repr(build_router(ProviderSettings(upstreams=(one,)), environ={"A_KEY": KEY}))


@pytest.mark.parametrize("key", ["two\r\nlines", "caf\u00e9", "a b"])
def test_a_key_that_no_header_can_carry_is_refused_without_showing_it(key: str) -> None:
    one = UpstreamSettings(name="a", base_url="http://a.example", api_key=key)
    with pytest.raises(ConfigurationError, match="api_key") as caught:
        build_router(ProviderSettings(upstreams=(one,)), environ={})
    assert key not in caught.value.message
