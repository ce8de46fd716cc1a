"""Which broker the relay and the workers speak to, in the words of kombu."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from urllib.parse import quote, unquote, urlsplit, urlunsplit

from sparkle.errors import ConfigurationError
from sparkle.masking import mask_urls
from sparkle.tasks.broker import broker_socket

CONNECT_SECONDS = 2
_SOCKET_SECONDS = 4.0
"""Longest wait for an answer of the broker. A worker's blocking pop asks for 1 s, so this never cuts one off."""


@dataclass(frozen=True, slots=True)
class BrokerTarget:
    """Where the broker is."""

    url: str
    """For kombu; may hold a password."""
    kind: Literal["redis", "amqp"]
    embedded: bool
    """Whether Sparkle starts it itself."""
    options: dict[str, Any] = field(default_factory=dict[str, Any])
    """kombu's ``transport_options``."""

    @property
    def shown(self) -> str:
        """The address without its password."""
        return mask_urls(self.url)


def broker_target(broker_url: str, data_dir: Path) -> BrokerTarget:
    """What ``SPARKLE_TASKS__BROKER_URL`` means; empty: the embedded Valkey of ``data_dir``.

    Raises:
        ConfigurationError: No broker has such an address; or the folder's path is too long for a socket.
    """
    if not broker_url:
        return BrokerTarget(_redis_socket(str(broker_socket(data_dir))), "redis", True, _redis_options())
    parts = urlsplit(broker_url)
    match parts.scheme:
        case "redis" | "rediss":
            return BrokerTarget(broker_url, "redis", False, _redis_options())
        case "valkey" | "valkeys":
            scheme = "rediss" if parts.scheme == "valkeys" else "redis"
            return BrokerTarget(urlunsplit(parts._replace(scheme=scheme)), "redis", False, _redis_options())
        case "unix" | "redis+socket":
            return BrokerTarget(_redis_socket(unquote(parts.path)), "redis", False, _redis_options())
        case "amqp" | "amqps":
            return BrokerTarget(broker_url, "amqp", False, _amqp_options())
        case _:
            raise ConfigurationError(
                f"SPARKLE_TASKS__BROKER_URL: no broker speaks {parts.scheme or 'this'!r}; use redis://, rediss://, "
                "valkey://, unix:// or amqp://, or leave it empty for the embedded one",
                param="tasks.broker_url",
            )


def _redis_socket(path: str) -> str:
    return f"redis+socket://{quote(path)}"


def _redis_options() -> dict[str, Any]:
    return {
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": _SOCKET_SECONDS,
        "socket_keepalive": True,
        # Strictly by the order in which a worker names its queues: high before default before low.
        "queue_order_strategy": "priority",
        # Redelivery is the ledger's business. This only bounds how long a dead worker's message lies about.
        "visibility_timeout": 3600,
    }


def _amqp_options() -> dict[str, Any]:
    return {
        "connect_timeout": CONNECT_SECONDS,
        "read_timeout": _SOCKET_SECONDS,
        "write_timeout": _SOCKET_SECONDS,
    }
