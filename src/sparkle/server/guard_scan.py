"""``POST /v1/guard/scan``: judge a text without calling a model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import msgspec

from sparkle.errors import InvalidRequestError, RequestTooLargeError, SparkleError
from sparkle.llm.outcomes import findings_json
from sparkle.llm.requests import parse_chat
from sparkle.llm.verdict import Verdict
from sparkle.server.context import identify
from sparkle.server.http import JSON_TYPE, Receive, Scope, Send, decode_json, read_body, send_bytes

if TYPE_CHECKING:
    from sparkle.llm.guards import Guards
    from sparkle.server.gateway import Gateway

_TRUST = {"user": "untrusted", "tool": "indirect", "retrieved": "indirect"}
_THREAD_ABOVE_BYTES = 30_000


async def handle(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Body: ``{"text": str}`` or ``{"messages": [...]}``, ``direction`` ``input`` or ``output``, ``role`` of a text.

    Answers ``{"action", "score", "findings", "text"}``; ``text`` is what would go on, ``null`` for messages and blocks.
    """
    context = identify(scope, gateway.keys, require_key=gateway.require_key)
    try:
        raw = await read_body(scope, receive, gateway.settings.server.max_body_bytes)
        body: Any = decode_json(raw, gateway.settings.server.max_json_depth)
        if not isinstance(body, dict):
            raise InvalidRequestError("the request body must be a JSON object")
        guards = gateway.services.guards()
        fields = cast("dict[str, Any]", body)
        if len(raw) > _THREAD_ABOVE_BYTES:
            answer = await asyncio.to_thread(scan, guards, fields)
        else:
            answer = scan(guards, fields)
    except SparkleError as exc:
        exc.request_id = context.request_id  # pyright: ignore[reportAttributeAccessIssue]  read by the gateway's error answer
        raise
    headers = [JSON_TYPE, (b"x-request-id", context.request_id.encode())]
    await send_bytes(send, 200, msgspec.json.encode(answer), headers)


def scan(guards: Guards, body: dict[str, Any]) -> dict[str, Any]:
    """Judge one scan body.

    Raises:
        InvalidRequestError: Neither ``text`` nor ``messages``, or an unknown direction or role.
    """
    direction = body.get("direction", "input")
    if direction not in ("input", "output"):
        raise InvalidRequestError("direction must be input or output", param="direction")
    text = body.get("text")
    if text is None and "messages" in body and direction == "input":
        request = parse_chat({"model": "scan", "messages": body["messages"]})
        return _answer(guards.safety.check_messages(request.messages).verdict, None)
    if not isinstance(text, str):
        raise InvalidRequestError("text must be a string (or give messages)", param="text")
    most = guards.policy.input.limits.max_text_chars
    if len(text) > most:
        raise RequestTooLargeError(f"text is longer than {most} characters", param="text")
    if direction == "output":
        result = guards.output.check_text(text)
        return _answer(result.verdict, result.text)
    role = body.get("role", "user")
    if not isinstance(role, str) or role not in _TRUST:
        raise InvalidRequestError(f"role must be one of {', '.join(_TRUST)}", param="role")
    verdict, redacted = guards.safety.redact_text(text, trust=cast("Any", _TRUST[role]))
    return _answer(verdict, redacted)


def _answer(verdict: Verdict, text: str | None) -> dict[str, Any]:
    return {
        "action": verdict.action,
        "score": verdict.score,
        "findings": findings_json(verdict),
        "text": None if verdict.action == "block" else text,
    }
