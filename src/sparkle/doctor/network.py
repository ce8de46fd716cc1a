"""The broker, the upstream models, the gateway's own port."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, cast

from sparkle.doctor.findings import Finding, failed, note, ok, warning
from sparkle.settings import Settings, UpstreamSettings

if TYPE_CHECKING:
    from sparkle.tasks.broker_url import BrokerTarget

_SECONDS = 5
_BROKER = "check SPARKLE_TASKS__BROKER_URL and that the broker runs"


def broker(settings: Settings) -> Iterator[Finding]:
    """Whether it answers, and whether what it is given survives a restart."""
    from sparkle.tasks.broker_url import broker_target

    target = broker_target(settings.tasks.broker_url, settings.data_dir)
    if target.kind == "amqp":
        yield _amqp(target)
    else:
        yield from _redis(target, settings)


def _amqp(target: BrokerTarget) -> Finding:
    try:
        from kombu.connection import Connection
    except ImportError:
        return note("broker", "not looked at: the extra 'tasks' is not installed")
    connection: Any = Connection(target.url, transport_options=target.options, connect_timeout=_SECONDS)
    try:
        connection.connect()
    except Exception as exc:  # noqa: BLE001  each transport has errors of its own, and all mean the same here
        return failed("broker", f"{target.shown} does not answer ({type(exc).__name__})", _BROKER)
    finally:
        connection.release()
    return ok("broker", f"{target.shown} answers; Sparkle's queues and messages are durable there")


def _redis(target: BrokerTarget, settings: Settings) -> Iterator[Finding]:
    try:
        import redis
    except ImportError:
        yield note("broker", "not looked at: the extra 'tasks' is not installed")
        return
    url = target.url.replace("redis+socket://", "unix://", 1)
    # The library types its answers as either themselves or awaitable.
    client = cast("Any", redis.Redis).from_url(url, socket_timeout=_SECONDS, socket_connect_timeout=_SECONDS)
    try:
        facts: dict[str, Any] = {
            **client.info("persistence"),
            **client.info("server"),
            **client.info("memory"),
        }
    except (redis.RedisError, OSError) as exc:
        if target.embedded:
            yield note(
                "broker",
                f"the embedded broker does not run in {settings.data_dir}",
                "sparkle serve --with-worker starts it",
            )
        else:
            yield failed("broker", f"{target.shown} does not answer ({type(exc).__name__})", _BROKER)
        return
    finally:
        client.close()
    name = "the embedded broker" if target.embedded else target.shown
    yield ok("broker", f"{name} answers ({facts.get('valkey_version') or facts.get('redis_version')})")
    if not facts.get("aof_enabled"):
        yield warning(
            "broker",
            f"{name} keeps no append-only file: after its restart every handed-over task is rung for anew",
            "set `appendonly yes` in its configuration",
        )
    policy = str(facts.get("maxmemory_policy", "noeviction"))
    if policy != "noeviction" and facts.get("maxmemory"):
        yield warning(
            "broker",
            f"{name} drops keys when its memory is full ({policy})",
            "set `maxmemory-policy noeviction` in its configuration",
        )


def upstreams(settings: Settings) -> Iterator[Finding]:
    """Whether each upstream answers and takes its key."""
    provider = settings.provider
    chosen = list(provider.upstreams)
    if not chosen and provider.upstream:
        key = os.environ.get("OPENAI_API_KEY", "")
        chosen = [UpstreamSettings(name="default", base_url=provider.upstream, api_key=key)]
    if not chosen:
        yield note(
            "upstream", "none is set: the small local model answers", "sparkle serve --upstream https://..."
        )
    for upstream in chosen:
        yield asyncio.run(_upstream(upstream))


async def _upstream(upstream: UpstreamSettings) -> Finding:
    import aiohttp

    from sparkle.llm.providers.address import parse_address, proxy_for

    check = f"upstream {upstream.name}"
    address = parse_address(upstream.base_url, upstream.name)
    key = upstream.api_key or os.environ.get(upstream.api_key_env or "", "")
    if upstream.api_key_env and not key:
        return failed(
            check, f"the variable {upstream.api_key_env} is not set", f"export {upstream.api_key_env}=..."
        )
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    timeout = aiohttp.ClientTimeout(total=_SECONDS)
    where = address.authority
    try:
        async with (
            aiohttp.ClientSession(timeout=timeout) as session,
            session.get(
                address.url("/models"),
                headers=headers,
                proxy=proxy_for(address, os.environ),
                allow_redirects=False,
            ) as answer,
        ):
            status = answer.status
    except (aiohttp.ClientError, TimeoutError, OSError) as exc:
        return failed(
            check,
            f"{where} does not answer ({type(exc).__name__})",
            "check the address, the network and HTTP(S)_PROXY",
        )
    if status in (401, 403):
        return failed(
            check, f"{where} refuses the key ({status})", "check the upstream's api_key or api_key_env"
        )
    if status >= 500:
        return warning(
            check, f"{where} answers with {status}", "look at the upstream; Sparkle retries and falls back"
        )
    return ok(check, f"{where} answers")


def gateway(settings: Settings) -> Iterator[Finding]:
    """Who listens on the gateway's port, and whether strangers could."""
    server = settings.server
    check = "gateway"
    host = "127.0.0.1" if server.host in ("", "0.0.0.0", "::") else server.host  # noqa: S104  compared, not bound
    if not server.port:
        yield note(check, "takes a free port at each start")
    else:
        try:
            with socket.create_connection((host, server.port), timeout=1.0):
                yield ok(check, f"somebody listens on {host}:{server.port}")
        except OSError:  # refused or unreachable: nobody is there
            yield note(check, f"nobody listens on {host}:{server.port}", "sparkle serve")
    if host == "127.0.0.1" and server.host not in ("127.0.0.1", "localhost") and server.require_keys is False:
        yield warning(
            check, f"listens on {server.host} without demanding keys", "unset SPARKLE_SERVER__REQUIRE_KEYS"
        )


def policy(settings: Settings) -> Iterator[Finding]:
    """Whether the policy file can be read."""
    from sparkle.llm.policy_source import load_policy

    found = load_policy(settings.policy or None)
    yield ok("policy", f"{found.name} (version {found.version})")
