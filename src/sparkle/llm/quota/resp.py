"""One connection to Valkey or Redis: as much of their protocol (RESP2) as a single script call needs.

Importing a full client costs half a second and some 20 MB in every worker, and its retries would send a batch twice.
"""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, unquote, urlsplit

from sparkle.errors import ConfigurationError

_SCHEMES = ("redis", "rediss", "valkey", "valkeys", "unix")
_LARGEST_REPLY = 64 * 1024 * 1024


class ReplyError(Exception):
    """The server refused a command; the first word tells why (``NOSCRIPT``, ``READONLY``, ``OOM``, ...)."""

    @property
    def code(self) -> str:
        """The first word."""
        return str(self).partition(" ")[0]


class ProtocolError(Exception):
    """What came is not an answer; the connection cannot be used any more."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a server is and who we are there."""

    host: str = "localhost"
    port: int = 6379
    path: str = ""
    """A Unix socket; empty: host and port."""
    tls: bool = False
    ca_file: str = ""
    """Certificates to trust instead of the system's."""
    database: int = 0
    username: str = field(default="", repr=False)
    password: str = field(default="", repr=False)

    @classmethod
    def parse(cls, url: str) -> Address:
        """Read ``redis[s]://[[user]:password@]host[:port][/database]`` or ``unix://[:password@]/path[?db=0]``.

        ``valkey://`` and ``valkeys://`` mean the same. Options: ``db``, and with TLS ``ssl_ca_certs``.

        Raises:
            ConfigurationError: The URL cannot be read. It may hold a password, so the message quotes nothing of it.
        """
        try:
            parts = urlsplit(url)
            port = parts.port or 6379
            options = dict(parse_qsl(parts.query, strict_parsing=bool(parts.query)))
            local = parts.scheme == "unix"
            database = int(options.pop("db", "") or ("0" if local else parts.path.strip("/") or "0"))
        except ValueError:
            raise ConfigurationError("quota.store_url cannot be read as a Redis URL") from None
        if parts.scheme not in _SCHEMES or not (parts.path if local else parts.hostname):
            raise ConfigurationError("quota.store_url must be redis://host, rediss://host or unix:///path")
        ca_file = options.pop("ssl_ca_certs", "")
        if options or database < 0:
            raise ConfigurationError("quota.store_url: the only options are db and ssl_ca_certs")
        return cls(
            host=parts.hostname or "",
            port=port,
            path=unquote(parts.path) if local else "",
            tls=parts.scheme in ("rediss", "valkeys"),
            ca_file=ca_file,
            database=database,
            username=unquote(parts.username or ""),
            password=unquote(parts.password or ""),
        )


class Connection:
    """Asks one thing at a time. Not for several tasks at once."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._moved: tuple[str, int] | None = None
        self._reader: asyncio.StreamReader | None = None
        self._writer: asyncio.StreamWriter | None = None

    @property
    def connected(self) -> bool:
        """Whether the next :meth:`ask` has a connection to go by."""
        reader, writer = self._reader, self._writer
        return reader is not None and writer is not None and not (writer.is_closing() or reader.at_eof())

    def move(self, host: str, port: int) -> None:
        """Connect to another node from now on (a cluster's ``MOVED``), until that one cannot be reached."""
        self._moved = (host or self._address.host, port)

    async def connect(self) -> None:
        """Connect, log in, choose the database.

        Raises:
            OSError: Nobody answers there, or TLS failed.
            ReplyError: The server does not let us in.
            ProtocolError: Something else listens there.
        """
        await self.close()
        address, moved = self._address, self._moved
        self._moved = None
        if address.path:
            self._reader, self._writer = await asyncio.open_unix_connection(
                address.path, limit=_LARGEST_REPLY
            )
        else:
            host, port = moved or (address.host, address.port)
            tls = ssl.create_default_context(cafile=address.ca_file or None) if address.tls else None
            self._reader, self._writer = await asyncio.open_connection(
                host, port, ssl=tls, limit=_LARGEST_REPLY
            )
        try:
            if address.password:
                await self.ask(
                    b"AUTH", *(part.encode() for part in (address.username, address.password) if part)
                )
            if address.database:
                await self.ask(b"SELECT", b"%d" % address.database)
        except BaseException:
            await self.close()
            raise
        # Only a node that let us in is kept.
        self._moved = moved

    async def ask(self, *command: bytes) -> bytes:
        """Send one command and return its answer, a string or a number in digits.

        Raises:
            ReplyError: The server refused it.
            OSError, asyncio.IncompleteReadError, ProtocolError: The connection broke; what became of it is unknown.
        """
        reader, writer = self._reader, self._writer
        if reader is None or writer is None:
            raise ConnectionResetError("not connected")
        writer.write(
            b"*%d\r\n" % len(command) + b"".join(b"$%d\r\n%b\r\n" % (len(part), part) for part in command)
        )
        line = await reader.readuntil(b"\r\n")
        kind, rest = line[:1], line[1:-2]
        if kind == b"$" and rest.isdigit():
            return (await reader.readexactly(int(rest) + 2))[:-2]
        if kind in (b"+", b":"):
            return rest
        if kind == b"-":
            raise ReplyError(rest.decode(errors="replace"))
        raise ProtocolError(f"unexpected kind of reply {kind!r}")

    async def close(self) -> None:
        """Hang up at once, without a word; what was being answered stays unread. Idempotent."""
        writer, self._writer, self._reader = self._writer, None, None
        if writer is not None:
            writer.transport.abort()
            # After an abort this only lets the event loop close the socket; why it broke was told before.
            with contextlib.suppress(OSError):
                await writer.wait_closed()
