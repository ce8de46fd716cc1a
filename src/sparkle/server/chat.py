"""``POST /v1/chat/completions``, plain and streaming."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING

import msgspec

from sparkle.errors import GuardFailedError, ProviderError, SparkleError
from sparkle.llm.guarded_stream import DONE
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
from sparkle.server.idempotency import IdempotencyStore, StoredAnswer

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
        request = parse_chat(decode_json(raw, gateway.settings.server.max_json_depth), len(raw))
        who = context.charge_to(request.user)
        check_model(who, request.model, request.body)
        await _run(gateway, context, request, who, raw, receive, send)
    except SparkleError as exc:
        exc.request_id = context.request_id  # pyright: ignore[reportAttributeAccessIssue]  read by the gateway's error answer
        raise


@dataclass(slots=True)
class _Claim:
    """An Idempotency-Key that this call holds.

    It is kept or freed before the client can know that the call has ended: a client that repeats the call at once
    must find the answer, not a call in flight.
    """

    store: IdempotencyStore
    owner: str
    key: str
    open: bool = True

    def keep(self, content_type: str, body: bytes) -> None:
        """The call came to its end with this answer."""
        self.open = False
        self.store.store(self.owner, self.key, StoredAnswer(200, content_type, body))

    def free(self) -> None:
        """The call failed or was given up, unless it was kept before."""
        if self.open:
            self.open = False
            self.store.free(self.owner, self.key)


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
        await _answer(gateway, context, request, who, None, receive, send)
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
    claim = _Claim(store, owner, key)
    try:
        await _answer(gateway, context, request, who, claim, receive, send)
    finally:
        claim.free()


async def _answer(
    gateway: Gateway,
    context: RequestContext,
    request: ChatRequest,
    who: Principal,
    claim: _Claim | None,
    receive: Receive,
    send: Send,
) -> None:
    wrapper = gateway.services.wrapper
    if request.stream:
        stream = await wrapper.open_stream(
            request, who, request_id=context.request_id, traceparent=context.traceparent
        )
        await _send_stream(gateway, context, stream, claim, receive, send)
        return
    result = await wrapper.complete(
        request, who, request_id=context.request_id, traceparent=context.traceparent
    )
    if claim is not None:
        claim.keep("application/json", result.body)
    headers = [JSON_TYPE, *_result_headers(gateway, context, result)]
    await send_bytes(send, 200, result.body, headers)


async def _send_stream(
    gateway: Gateway,
    context: RequestContext,
    stream: GuardedStream,
    claim: _Claim | None,
    receive: Receive,
    send: Send,
) -> None:
    """Send the stream as server-sent events until it ends or the client hangs up."""
    headers: Headers = [
        SSE_TYPE,
        (b"cache-control", b"no-cache"),
        (b"x-accel-buffering", b"no"),  # nginx in front must not collect the chunks
        (b"x-request-id", context.request_id.encode()),
        (b"x-sparkle-upstream", stream.upstream_name.encode()),
        *limit_headers(stream.limits, gateway.clock.now()),
    ]
    # The pump is a task so that a client that hangs up stops it even while it waits for the upstream.
    pump = asyncio.ensure_future(_pump(stream, send, headers, claim))
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((pump, gone), return_when=asyncio.FIRST_COMPLETED)
        if pump.done():
            pump.result()
    finally:
        for task in (pump, gone):
            task.cancel()
        await asyncio.gather(pump, gone, return_exceptions=True)
        await stream.aclose()


async def _pump(stream: GuardedStream, send: Send, headers: Headers, claim: _Claim | None) -> None:
    """Write events until the end."""
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    sent = bytearray()
    try:
        async for payload in stream.payloads():
            event = b"data: " + payload + b"\n\n"
            if claim is not None:
                sent += event
                if payload == DONE:
                    claim.keep(SSE_TYPE[1].decode(), bytes(sent))
            await send({"type": "http.response.body", "body": event, "more_body": True})
    except (ProviderError, GuardFailedError) as exc:
        # The status line is out; OpenAI's convention for a late failure is an error event.
        if claim is not None:
            claim.free()
        event = b"data: " + msgspec.json.encode(exc.body()) + b"\n\n"
        await send({"type": "http.response.body", "body": event, "more_body": True})
    await send({"type": "http.response.body", "body": b"", "more_body": False})


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
