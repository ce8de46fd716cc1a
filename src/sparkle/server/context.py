"""What one request carries through the gateway: who calls, its id, its headers back."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from sparkle.errors import AuthenticationError, InvalidRequestError, PermissionDeniedError
from sparkle.llm.outcomes import new_request_id
from sparkle.llm.usage import Principal
from sparkle.server.http import Headers, Scope, header

if TYPE_CHECKING:
    from sparkle.llm.quota import LimitState
    from sparkle.server.keys import KeyStore

KEY_PREFIX = "sk-sparkle-"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_MODEL_LISTS = ("models", "fallbacks", "fallback_models", "route")
"""Fields by which some upstreams take further models than the one in ``model``."""
_ANONYMOUS = "anonymous"


@dataclass(frozen=True, slots=True)
class RequestContext:
    """One request's identity."""

    request_id: str
    principal: Principal | None
    """From the API key; ``None`` where no key is demanded and none was given."""
    traceparent: str | None
    idempotency_key: str | None

    def charge_to(self, user: str | None) -> Principal:
        """The principal that pays: the key's user, else the request's ``user`` field, else ``anonymous``."""
        return self.principal or Principal(user=user or _ANONYMOUS)


def identify(scope: Scope, keys: KeyStore, *, require_key: bool) -> RequestContext:
    """Read the headers.

    Raises:
        AuthenticationError: A key is demanded and missing, or the given Sparkle key is unknown or revoked.
        InvalidRequestError: An Idempotency-Key that is not 1 to 255 printable characters.
    """
    authorization = traceparent = request_id = idempotency = None
    for name, value in scope["headers"]:
        if name == b"authorization":
            authorization = value.decode("latin-1")
        elif name == b"traceparent":
            traceparent = value.decode("latin-1")
        elif name == b"x-request-id":
            request_id = value.decode("latin-1")
        elif name == b"idempotency-key":
            idempotency = value.decode("latin-1")
    if idempotency is not None and not (0 < len(idempotency) <= 255 and idempotency.isprintable()):
        raise InvalidRequestError(
            "Idempotency-Key must be 1 to 255 printable characters", param="Idempotency-Key"
        )
    if request_id is None or _REQUEST_ID.fullmatch(request_id) is None:
        request_id = new_request_id()
    return RequestContext(request_id, _principal(authorization, keys, require_key), traceparent, idempotency)


def _principal(authorization: str | None, keys: KeyStore, require_key: bool) -> Principal | None:
    scheme, _, presented = (authorization or "").partition(" ")
    presented = presented.strip()
    if scheme.lower() == "bearer" and (require_key or presented.startswith(KEY_PREFIX)):
        # A Sparkle key is checked even where none is demanded: a revoked key must not become "anonymous".
        return keys.verify(presented)
    if require_key:
        raise AuthenticationError("an API key is needed: Authorization: Bearer sk-sparkle-...")
    return None


def check_model(principal: Principal, model: str, body: Mapping[str, Any]) -> None:
    """Refuse a model the key may not use.

    Raises:
        PermissionDeniedError: The key names its models and this is none of them.
    """
    if not principal.models:
        return
    rivals = [name for name in _MODEL_LISTS if name in body]
    if rivals:
        raise PermissionDeniedError("this key may not name further models", param=rivals[0])
    if not may_use(principal, model):
        raise PermissionDeniedError("this key may not use that model", param="model")


def may_use(principal: Principal, model: str) -> bool:
    """Whether the key's model patterns allow ``model``; a key without patterns may use all."""
    return not principal.models or any(fnmatchcase(model, pattern) for pattern in principal.models)


def limit_headers(limits: Sequence[LimitState], now: float) -> Headers:
    """``x-ratelimit-{limit,remaining,reset}-{requests,tokens}`` of the tightest limit of each kind."""
    headers: Headers = []
    for kind, states in (("requests", _of_kind(limits, "requests")), ("tokens", _of_kind(limits, "tokens"))):
        if not states:
            continue
        tightest = min(states, key=lambda s: s.remaining)
        name = kind.encode()
        headers += [
            (b"x-ratelimit-limit-" + name, b"%d" % tightest.limit),
            (b"x-ratelimit-remaining-" + name, b"%d" % max(0, tightest.remaining)),
            (b"x-ratelimit-reset-" + name, b"%ds" % max(0, -int(-(tightest.reset_at - now) // 1))),
        ]
    return headers


def _of_kind(limits: Sequence[LimitState], kind: str) -> list[LimitState]:
    return [state for state in limits if state.kind.startswith(kind)]


def wants_request_id(scope: Scope) -> str:
    """A request id for answers that fail before :func:`identify`."""
    given = header(scope, b"x-request-id")
    return given if given and _REQUEST_ID.fullmatch(given) is not None else new_request_id()
