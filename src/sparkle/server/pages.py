"""The pages beside the model API: models, health, metrics, documentation."""

from __future__ import annotations

import html
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

import msgspec

from sparkle.errors import NotFoundError, SparkleError
from sparkle.server.context import identify, may_use
from sparkle.server.http import Receive, Scope, Send, send_bytes, send_json
from sparkle.tasks.ledger_metrics import read_file

if TYPE_CHECKING:
    from sparkle.server.gateway import Gateway

_HTML = (b"content-type", b"text/html; charset=utf-8")
_PAGE_POLICY = (
    b"content-security-policy",
    b"default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'",
)


async def models(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /v1/models``."""
    context = identify(scope, gateway.keys, require_key=gateway.require_key)
    data = await gateway.services.provider.models()
    if context.principal is not None:
        data = [entry for entry in data if may_use(context.principal, str(entry["id"]))]
    headers = [(b"x-request-id", context.request_id.encode())]
    await send_json(send, 200, {"object": "list", "data": data}, headers)


async def model(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """``GET /v1/models/{model}``."""
    context = identify(scope, gateway.keys, require_key=gateway.require_key)
    wanted = unquote(scope["path"].removeprefix("/v1/models/"))
    for entry in await gateway.services.provider.models():
        if entry.get("id") == wanted:
            await send_json(send, 200, entry, [(b"x-request-id", context.request_id.encode())])
            return
    raise NotFoundError("there is no such model", param="model")


async def healthz(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """The process alone."""
    await send_json(send, 200, {"status": "ok"})


async def readyz(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Model, stores, audit and policy; false first on drain."""
    checks: dict[str, Any] = {}
    ready = not gateway.readiness.draining
    checks["accepting"] = "ok" if ready else "draining"
    for name, check in (
        ("model", gateway.services.provider.ready),
        ("quota_store", gateway.services.quota.ready),
    ):
        try:
            await check()
            checks[name] = "ok"
        except SparkleError as exc:
            checks[name] = exc.message
            ready = False
    for name, check in (("audit", gateway.services.monitor.ready), ("keys", gateway.keys.ready)):
        try:
            check()
            checks[name] = "ok"
        except SparkleError as exc:
            checks[name] = exc.message
            ready = False
    checks["policy"] = gateway.services.policy_status()
    await send_json(
        send, 200 if ready else 503, {"status": "ready" if ready else "not ready", "checks": checks}
    )


async def metrics(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Prometheus exposition, summed over the workers; with the long tasks' figures if this machine has their relay."""
    body, content_type = gateway.services.render_metrics()
    body += read_file(gateway.settings.data_dir, gateway.clock.now)
    await send_bytes(send, 200, body, [(b"content-type", content_type.encode())])


async def openapi(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """The OpenAPI document."""
    await send_json(send, 200, openapi_document())


async def docs(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """The OpenAPI document for people: one page without scripts, so that it works offline and under a strict policy."""
    await send_bytes(send, 200, _docs_page(), [_HTML, _PAGE_POLICY])


async def index(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Where to go from here."""
    await send_json(send, 200, {"name": "sparkle", "docs": "/docs", "api": "/v1", "metrics": "/metrics"})


@cache
def openapi_document() -> dict[str, Any]:
    """The OpenAPI document as shipped."""
    return msgspec.yaml.decode(resources.files("sparkle.server").joinpath("openapi.yaml").read_bytes())


_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#8881}
body{font:16px/1.6 system-ui,"Noto Sans CJK SC",sans-serif;max-width:56rem;margin:2rem auto;padding:0 1rem}
h2{border-bottom:1px solid var(--line);padding-bottom:.3rem;margin-top:2.5rem}
article{border:1px solid var(--line);border-radius:.6rem;padding:.6rem 1rem;margin:1rem 0}
code,pre{font:13px/1.5 ui-monospace,monospace;background:var(--soft);border-radius:.3rem;padding:.1rem .3rem}
pre{padding:.8rem;overflow-x:auto}b.m{font:600 13px ui-monospace,monospace;margin-right:.6rem}
table{border-collapse:collapse;width:100%}
td{border-top:1px solid var(--line);padding:.3rem .6rem .3rem 0;vertical-align:top}
"""


@cache
def _docs_page() -> bytes:
    document = openapi_document()
    out = [
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Sparkle API</title><style>{_STYLE}</style><h1>Sparkle API</h1>",
        f"<p>{html.escape(document['info']['description'])}</p>",
        "<p>Machine-readable: <a href=/openapi.json>openapi.json</a></p>",
    ]
    for tag in document["tags"]:
        out.append(f"<h2>{html.escape(tag['name'])}</h2>")
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                if tag["name"] in operation["tags"]:
                    out.append(_operation(path, method, operation, document))
    return "".join(out).encode()


def _operation(path: str, method: str, operation: dict[str, Any], document: dict[str, Any]) -> str:
    rows = "".join(
        f"<tr><td><code>{status}</code><td>{html.escape(_resolve(response, document)['description'])}"
        for status, response in operation["responses"].items()
    )
    curl = ""
    content = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
    if "example" in content:
        body = msgspec.json.encode(content["example"]).decode()
        command = f"curl http://127.0.0.1:8000{path} -H 'content-type: application/json' -d '{body}'"
        curl = f"<pre>{html.escape(command)}</pre>"
    return (
        f"<article><p><b class=m>{method.upper()}</b><code>{html.escape(path)}</code></p>"
        f"<p>{html.escape(operation['summary'])}</p>{curl}<table>{rows}</table></article>"
    )


def _resolve(node: dict[str, Any], document: dict[str, Any]) -> dict[str, Any]:
    reference = node.get("$ref")
    if not reference:
        return node
    for part in reference.removeprefix("#/").split("/"):
        document = document[part]
    return document
