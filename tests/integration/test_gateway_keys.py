"""API keys at the gateway: who is let in, to which models, and who pays."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.support.gateway import calls, gateway
from tests.support.upstream import ScriptedUpstream

from sparkle.server.gateway import demands_keys
from sparkle.server.keys import KEYS_FILE, KeyStore
from sparkle.settings import load_settings


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
def store(tmp_path: Path) -> KeyStore:
    return KeyStore(tmp_path / KEYS_FILE)


async def test_a_key_made_while_the_server_runs_works_and_stops_working_when_revoked(
    tmp_path: Path, up: ScriptedUpstream, store: KeyStore
) -> None:
    async with gateway(tmp_path, upstream=up.url, server={"require_keys": True}) as gw:
        gw.app.keys._refresh = 0.0  # pyright: ignore[reportPrivateUsage]  look at the file at once instead of within 250 ms
        assert (await gw.chat()).status == 401
        key_id, key = store.create("eve")
        assert (await gw.chat(headers=bearer(key))).status == 200
        store.revoke(key_id)
        refused = await gw.chat(headers=bearer(key))
    assert refused.status == 401
    assert "revoked" in refused.error["message"]
    assert key not in refused.body.decode()


async def test_a_key_is_good_for_its_models_only(
    tmp_path: Path, up: ScriptedUpstream, store: KeyStore
) -> None:
    _, key = store.create("eve", models=["gpt-*", "embed-small"])
    async with gateway(tmp_path, upstream=up.url, server={"require_keys": True}) as gw:
        assert (await gw.chat(model="gpt-test", headers=bearer(key))).status == 200
        refused = await gw.chat(model="other-model", headers=bearer(key))
        embedded = await gw.post(
            "/v1/embeddings", {"model": "embed-large", "input": "x"}, headers=bearer(key)
        )
        allowed = await gw.post("/v1/embeddings", {"model": "embed-small", "input": "x"}, headers=bearer(key))
    assert (refused.status, refused.error["code"], refused.error["param"]) == (
        403,
        "permission_denied",
        "model",
    )
    assert (embedded.status, allowed.status) == (403, 200)
    assert [request.json["model"] for request in calls(up)] == ["gpt-test", "embed-small"]


async def test_the_keys_user_pays_whatever_the_request_says(
    tmp_path: Path, up: ScriptedUpstream, store: KeyStore
) -> None:
    _, key = store.create("eve")
    up.answer("ok", usage=(10, 5))
    async with gateway(tmp_path, upstream=up.url) as gw:
        await gw.chat(user="mallory-says-bob", headers=bearer(key))
        assert (await gw.tokens_used("eve")) == (15, 0)
        assert (await gw.tokens_used("mallory-says-bob")) == (0, 0)


async def test_on_loopback_the_requests_user_pays_else_anonymous(
    tmp_path: Path, up: ScriptedUpstream
) -> None:
    up.answer("ok", usage=(10, 5))
    async with gateway(tmp_path, upstream=up.url) as gw:
        await gw.chat(user="ann")
        await gw.chat(user="ann", headers=bearer("not-needed-on-loopback"))
        await gw.chat(user="")
        await gw.chat()
        assert (await gw.tokens_used("ann")) == (30, 0)
        assert (await gw.tokens_used("anonymous")) == (30, 0)


async def test_a_revoked_key_does_not_become_anonymous_on_loopback(
    tmp_path: Path, up: ScriptedUpstream, store: KeyStore
) -> None:
    key_id, key = store.create("eve")
    store.revoke(key_id)
    async with gateway(tmp_path, upstream=up.url) as gw:
        assert (await gw.chat(headers=bearer(key))).status == 401
    assert not calls(up)


async def test_a_teams_and_a_keys_limits_hold_beside_the_users(
    tmp_path: Path, up: ScriptedUpstream, store: KeyStore
) -> None:
    _, first = store.create("ann", team="physics")
    _, second = store.create("bob", team="physics")
    _, other = store.create("cyd", team="history")
    quota = {"team.requests_per_minute": 2, "key.requests_per_minute": 1}
    async with gateway(tmp_path, upstream=up.url, quota=quota) as gw:
        statuses = [(await gw.chat(headers=bearer(key))).status for key in (first, first, second, other)]
    assert statuses == [200, 429, 200, 200]


@pytest.mark.parametrize(
    ("host", "require", "demanded"),
    [
        ("127.0.0.1", None, False),
        ("localhost", None, False),
        ("::1", None, False),
        ("0.0.0.0", None, True),
        ("192.168.1.5", None, True),
        ("::", None, True),
        ("127.0.0.1", True, True),
        ("0.0.0.0", False, False),
    ],
)
def test_keys_are_demanded_beyond_loopback(host: str, require: bool | None, demanded: bool) -> None:
    overrides = {"server.host": host, "server.require_keys": require}
    assert demands_keys(load_settings(environ={}, overrides=overrides)) is demanded
