"""``POST /v1/guard/scan``: judge a text without calling a model."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

import msgspec

from sparkle.errors import InvalidRequestError, RequestTooLargeError, SparkleError, StoreUnavailableError
from sparkle.llm.outcomes import findings_json
from sparkle.llm.requests import MAX_NAME, parse_chat
from sparkle.llm.verdict import Verdict
from sparkle.server.context import identify, limit_headers
from sparkle.server.http import JSON_TYPE, Receive, Scope, Send, decode_json, read_body, send_bytes

if TYPE_CHECKING:
    from sparkle.llm.guards import Guards
    from sparkle.llm.quota import Reservation
    from sparkle.llm.usage import Principal
    from sparkle.server.gateway import Gateway

_OWN_FIELDS = frozenset({"text", "direction", "role"})
_TRUST = {"user": "untrusted", "tool": "indirect", "retrieved": "indirect"}
_THREAD_ABOVE_BYTES = 30_000


async def handle(gateway: Gateway, scope: Scope, receive: Receive, send: Send) -> None:
    """Body: ``{"text": str}`` or a chat request, ``direction`` ``input`` or ``output``, ``role`` of a text.

    A chat request (``messages``, ``tools`` and any other field) is judged as ``/v1/chat/completions`` would judge it.
    Answers ``{"action", "score", "findings", "text"}``; ``text`` is what would go on, ``null`` for messages and blocks.
    Counts as a request of the key's or the body's user, and costs no tokens.

    Raises:
        LimitError: Too many requests, or too many at the same time.
        StoreUnavailableError: The quota store is down and the policy fails closed.
    """
    context = identify(scope, gateway.keys, require_key=gateway.require_key)
    try:
        raw = await read_body(scope, receive, gateway.settings.server.max_body_bytes)
        body: Any = decode_json(raw, gateway.settings.server.max_json_depth)
        if not isinstance(body, dict):
            raise InvalidRequestError("the request body must be a JSON object")
        guards = gateway.services.guards()
        fields = cast("dict[str, Any]", body)
        who = context.charge_to(_user(fields))
        reservation = await _counted(gateway, guards, who)
        try:
            if len(raw) > _THREAD_ABOVE_BYTES:
                answer = await asyncio.to_thread(scan, guards, fields)
            else:
                answer = scan(guards, fields)
        finally:
            if reservation is not None:
                gateway.services.quota.abandon(reservation)
    except SparkleError as exc:
        exc.request_id = context.request_id  # pyright: ignore[reportAttributeAccessIssue]  read by the gateway's error answer
        raise
    headers = [JSON_TYPE, (b"x-request-id", context.request_id.encode())]
    if reservation is not None:
        headers += limit_headers(reservation.limits, gateway.clock.now())
    await send_bytes(send, 200, msgspec.json.encode(answer), headers)


def _user(body: dict[str, Any]) -> str | None:
    user = body.get("user")
    if user is None or (isinstance(user, str) and len(user) <= MAX_NAME):
        return user or None
    raise InvalidRequestError(f"user must be a string of at most {MAX_NAME} characters", param="user")


async def _counted(gateway: Gateway, guards: Guards, who: Principal) -> Reservation | None:
    """Count the request as any other; ``None`` where the quota store is down and the policy fails open."""
    try:
        return await gateway.services.quota.reserve(who, model="scan", prompt_tokens=0, max_output_tokens=0)
    except StoreUnavailableError:
        if guards.policy.quota.on_error == "open":
            return None
        raise


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
        asked = {name: value for name, value in body.items() if name not in _OWN_FIELDS}
        request = parse_chat({"model": "scan", **asked})
        result = guards.safety.check_messages(request.messages, asked.get("tools"), request.body)
        return _answer(result.verdict, None)
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
