"""Where an upstream is: its base URL taken apart and checked, and the proxy that leads there."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from sparkle.errors import ConfigurationError


@dataclass(frozen=True, slots=True)
class Address:
    """A base URL."""

    scheme: str
    """``http`` or ``https``."""
    host: str
    port: int
    path: str
    """Without a slash at the end, e.g. ``/v1``."""
    query: str = ""

    @property
    def authority(self) -> str:
        """Value of the ``Host`` header."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return host if self.port == (443 if self.scheme == "https" else 80) else f"{host}:{self.port}"

    @property
    def loopback(self) -> bool:
        """True when the host is this machine."""
        if self.host == "localhost" or self.host.endswith(".localhost"):
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def target(self, path: str) -> str:
        """Request target of ``path`` below the base, e.g. ``/v1/chat/completions``."""
        return self.path + path + (f"?{self.query}" if self.query else "")

    def url(self, path: str) -> str:
        """Absolute URL of ``path`` below the base."""
        return f"{self.scheme}://{self.authority}{self.target(path)}"


def parse_address(base_url: str, name: str) -> Address:
    """Take a base URL apart. One without a path gets ``/v1``, where OpenAI-compatible servers have their API.

    Args:
        base_url: e.g. ``https://api.openai.com/v1``.
        name: The upstream's name, for the message.

    Raises:
        ConfigurationError: Not an http(s) URL, or one that carries credentials; the message never quotes the URL,
            because a key may stand in it.
    """
    problem = ""
    try:
        parts = urlsplit(base_url.strip())
        port = parts.port
    except ValueError:
        raise ConfigurationError(f"upstream {name!r}: base_url is not a URL") from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        problem = "base_url must begin with http:// or https:// and name a host"
    elif parts.username is not None or parts.password is not None:
        problem = "base_url must not carry credentials; use api_key or api_key_env"
    elif any(not 0x20 < ord(char) < 0x7F for char in parts.path + parts.query + parts.hostname):
        problem = "base_url may hold only printable ASCII"
    if problem:
        raise ConfigurationError(f"upstream {name!r}: {problem}")
    path = parts.path.rstrip("/") or "/v1"
    default = 443 if parts.scheme == "https" else 80
    return Address(parts.scheme, parts.hostname or "", port or default, path, parts.query)


def proxy_for(address: Address, environ: Mapping[str, str]) -> str | None:
    """The proxy that ``HTTP(S)_PROXY``, ``ALL_PROXY`` and ``NO_PROXY`` (either case) name for an address.

    Loopback is never reached through a proxy.
    """
    if address.loopback:
        return None

    def read(name: str) -> str:
        return environ.get(name.lower(), "") or environ.get(name, "")

    proxy = read(f"{address.scheme.upper()}_PROXY") or read("ALL_PROXY")
    if not proxy or any(_bypassed(address, entry.strip()) for entry in read("NO_PROXY").split(",")):
        return None
    return proxy if "://" in proxy else f"http://{proxy}"


def _bypassed(address: Address, entry: str) -> bool:
    if not entry:
        return False
    if entry == "*":
        return True
    try:
        return ipaddress.ip_address(address.host) in ipaddress.ip_network(entry, strict=False)
    except ValueError:
        pass  # the host or the entry is a name
    name, _, port = entry.rpartition(":") if entry.count(":") == 1 else (entry, "", "")
    if port and port != str(address.port):
        return False
    name = name.removeprefix("*").lstrip(".").lower()
    return address.host == name or address.host.endswith("." + name)
