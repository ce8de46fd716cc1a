"""``POST /v1/chat/completions``, plain and streaming."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import msgspec

from sparkle.errors import ProviderError, SparkleError
from sparkle.llm.requests import ChatRequest, parse_chat
from sparkle.llm.verdict import Action, Verdict
from sparkle.server.context import RequestContext, check_model, identify, limit_headers
from sparkle.server.http import (
    JSON_TYPE,
    SSE_TYPE,
    Headers,
    Receive,
    Scope,
    Send,
    decode_json,
    read_body,
    send_bytes,
)
from sparkle.server.idempotency import StoredAnswer

if TYPE_CHECKING:
    from sparkle.llm.guarded_stream import GuardedStream
    from sparkle.llm.results import ChatResult
    from sparkle.llm.usage import Principal
    from sparkle.server.gateway import Gateway


async def handle(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Identify, parse, replay or run."""
    context = identify(scope, gateway.keys, require_key=gateway.require_key)
    try:
        raw = await read_body(scope, receive, gateway.settings.server.max_body_bytes)
        request = parse_chat(decode_json(raw, gateway.settings.server.max_json_depth))
        who = context.charge_to(request.user)
        check_model(who, request.model)
        await _run(gateway, context, request, who, raw, receive, send)
    except SparkleError as exc:
        exc.request_id = context.request_id  # pyright: ignore[reportAttributeAccessIssue]  read by the gateway's error answer
        raise


async def _run(
    gateway: Gateway,
    context: RequestContext,
    request: ChatRequest,
    who: Principal,
    raw: bytes,
    receive: Receive,
    send: Send,
) -> None:
    key, store = context.idempotency_key, gateway.idempotency
    if key is None or store is None:
        await _answer(gateway, context, request, who, receive, send)
        return
    owner = who.key_id or f"user:{who.user}"
    known = store.claim(owner, key, raw)
    if known is not None:
        headers = [
            (b"content-type", known.content_type.encode()),
            (b"x-request-id", context.request_id.encode()),
            (b"x-sparkle-idempotent-replay", b"true"),
        ]
        await send_bytes(send, known.status, known.body, headers)
        return
    kept: StoredAnswer | None = None
    try:
        kept = await _answer(gateway, context, request, who, receive, send)
    finally:
        if kept is None:
            store.free(owner, key)
        else:
            store.store(owner, key, kept)


async def _answer(
    gateway: Gateway,
    context: RequestContext,
    request: ChatRequest,
    who: Principal,
    receive: Receive,
    send: Send,
) -> StoredAnswer | None:
    """Run the call; returns the answer if it came to its end."""
    wrapper = gateway.services.wrapper
    if request.stream:
        stream = await wrapper.open_stream(
            request, who, request_id=context.request_id, traceparent=context.traceparent
        )
        return await _send_stream(gateway, context, stream, receive, send)
    result = await wrapper.complete(
        request, who, request_id=context.request_id, traceparent=context.traceparent
    )
    headers = [JSON_TYPE, *_result_headers(gateway, context, result)]
    await send_bytes(send, 200, result.body, headers)
    return StoredAnswer(200, "application/json", result.body)


async def _send_stream(
    gateway: Gateway, context: RequestContext, stream: GuardedStream, receive: Receive, send: Send
) -> StoredAnswer | None:
    """Send the stream as server-sent events until it ends or the client hangs up."""
    headers: Headers = [
        SSE_TYPE,
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # nginx in front must not collect the chunks
        (b"x-request-id", context.request_id.encode()),
        (b"x-sparkle-upstream", stream.upstream_name.encode()),
        *limit_headers(stream.limits, gateway.clock.now()),
    ]
    keep = bytearray() if context.idempotency_key is not None and gateway.idempotency is not None else None
    # The pump is a task so that a client that hangs up stops it even while it waits for the upstream.
    pump = asyncio.ensure_future(_pump(stream, send, headers, keep))
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            complete = pump.result()
            return (
                StoredAnswer(200, SSE_TYPE[1].decode(), bytes(keep))
                if complete and keep is not None
                else None
            )
        return None
    finally:
        for task in (pump, gone):
            task.cancel()
        await asyncio.gather(pump, gone, return_exceptions=True)
        await stream.aclose()


async def _pump(stream: GuardedStream, send: Send, headers: Headers, keep: bytearray | None) -> bool:
    """Write events until the end; true when the stream was complete."""
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    complete = True
    try:
        async for payload in stream.payloads():
            event = b"data: " + payload + b"\n\n"
            if keep is not None:
                keep += event
            await send({"type": "http.response.body", "body": event, "more_body": True})
    except ProviderError as exc:
        # The status line is out; OpenAI's convention for a late failure is an error event.
        complete = False
        event = b"data: " + msgspec.json.encode(exc.body()) + b"\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})
    return complete


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _result_headers(gateway: Gateway, context: RequestContext, result: ChatResult) -> Headers:
    headers: Headers = [
        (b"x-request-id", context.request_id.encode()),
        (b"x-sparkle-upstream", result.upstream.encode()),
        *limit_headers(result.limits, gateway.clock.now()),
    ]
    if result.input_verdict.findings or result.output_verdict.findings:
        headers += verdict_headers(result.input_verdict, result.output_verdict)
    return headers


def verdict_headers(input_verdict: Verdict, output_verdict: Verdict) -> Headers:
    """``x-sparkle-input`` and ``x-sparkle-output``: what each guard did and by which rules."""
    headers: Headers = []
    for name, verdict in ((b"x-sparkle-input", input_verdict), (b"x-sparkle-output", output_verdict)):
        if verdict.findings:
            rules = ",".join(dict.fromkeys(f.rule for f in verdict.findings))
            action = verdict.action if verdict.action is not Action.ALLOW else "watch"
            headers.append((name, f"{action}; rules={rules}"[:1024].encode("ascii", "replace")))
    return headers
