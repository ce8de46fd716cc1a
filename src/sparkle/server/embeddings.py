"""``POST /v1/embeddings``."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sparkle.errors import SparkleError
from sparkle.llm.requests import parse_embeddings
from sparkle.server.context import check_model, identify, limit_headers
from sparkle.server.http import JSON_TYPE, Receive, Scope, Send, decode_json, read_body, send_bytes

if TYPE_CHECKING:
    from sparkle.server.gateway import Gateway


async def handle(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Guard, charge, embed."""
    context = identify(scope, gateway.keys, require_key=gateway.require_key)
    try:
        raw = await read_body(scope, receive, gateway.settings.server.max_body_bytes)
        request = parse_embeddings(decode_json(raw, gateway.settings.server.max_json_depth))
        who = context.charge_to(request.user)
        check_model(who, request.model, request.body)
        result = await gateway.services.wrapper.embed(
            request, who, request_id=context.request_id, traceparent=context.traceparent
        )
    except SparkleError as exc:
        exc.request_id = context.request_id  # pyright: ignore[reportAttributeAccessIssue]  read by the gateway's error answer
        raise
    headers = [
        JSON_TYPE,
        (b"x-request-id", context.request_id.encode()),
        (b"x-sparkle-upstream", result.upstream.encode()),
        *limit_headers(result.limits, gateway.clock.now()),
    ]
    await send_bytes(send, 200, result.body, headers)
