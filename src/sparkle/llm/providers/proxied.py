"""The transport for an upstream behind an HTTP proxy: aiohttp, which knows how to tunnel and to authenticate there.

Used only where ``HTTP(S)_PROXY`` names a proxy for the upstream; everything else goes over :mod:`.http1_pool`.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from sparkle.llm.providers.address import Address
from sparkle.llm.providers.transport import Timeouts, TransportError

if TYPE_CHECKING:
    import aiohttp
    from yarl import URL


class ProxiedTransport:
    """Connections through a proxy. Implements :class:`~sparkle.llm.providers.transport.Transport`."""

    def __init__(
        self,
        address: Address,
        proxy: str,
        *,
        authorization: str,
        timeouts: Timeouts,
        limit: int = 512,
        user_agent: str = "sparkle",
    ) -> None:
        self._address = address
        self._proxy = proxy
        self._timeouts = timeouts
        self._limit = limit
        self._headers = {"User-Agent": user_agent, "Accept": "*/*", "Accept-Encoding": "identity"}
        if authorization:
            self._headers["Authorization"] = authorization
        self._session: aiohttp.ClientSession | None = None
        self._urls: dict[str, URL] = {}

    async def start(self) -> None:
        """Make ready; opens no connection."""
        import aiohttp  # 60 ms and 20 MB that an upstream without a proxy does not need

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=self._limit, keepalive_timeout=60),
            cookie_jar=aiohttp.DummyCookieJar(),
            headers=self._headers,
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeouts.connect),
        )

    async def close(self) -> None:
        """Close every connection."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def send(
        self, method: str, path: str, extra: bytes, body: bytes, timeout: float
    ) -> ProxiedExchange:
        """Send one request and wait for its headers; see :meth:`Transport.send`."""
        import aiohttp
        from yarl import URL

        if self._session is None:
            raise TransportError("connect", "the client is not started")
        url = self._urls.get(path)
        if url is None:
            url = self._urls[path] = URL(self._address.url(path), encoded=True)
        fields = dict(line.split(": ", 1) for line in extra.decode("ascii").split("\r\n") if line)
        if body:
            fields["Content-Type"] = "application/json"
        expires = asyncio.get_running_loop().time() + timeout
        try:
            async with asyncio.timeout(min(timeout, self._timeouts.first_byte)):
                response = await self._session.request(
                    method, url, data=body or None, headers=fields, proxy=self._proxy, allow_redirects=False
                )
        except aiohttp.ServerTimeoutError:
            raise TransportError("connect_timeout", "timed out connecting through the proxy") from None
        except TimeoutError:
            kind = "timeout" if self._timeouts.first_byte <= timeout else "deadline"
            raise TransportError(kind, "timed out waiting for an answer through the proxy") from None
        except (aiohttp.ClientConnectorError, aiohttp.ClientHttpProxyError):
            # Their texts hold addresses, and the proxy's address may hold a password.
            raise TransportError("connect", "cannot connect through the proxy") from None
        except aiohttp.ClientConnectionError:
            raise TransportError("reset", "the connection ended before the answer") from None
        except aiohttp.ClientError:
            raise TransportError("protocol", "the answer is not valid HTTP/1.1") from None
        return ProxiedExchange(response, self._timeouts.idle, expires)


class ProxiedExchange:
    """One answer; see :class:`~sparkle.llm.providers.transport.Exchange`."""

    def __init__(self, response: aiohttp.ClientResponse, idle: float, expires: float) -> None:
        self._response = response
        self._idle = idle
        self._expires = expires
        self.status = response.status
        self.headers = response.raw_headers

    async def head(self) -> int:
        """The status; the headers are there from the beginning."""
        return self.status

    async def read(self, limit: int) -> bytes:
        """Wait for the whole answer."""
        parts: list[bytes] = []
        size = 0
        while part := await self.chunk():
            parts.append(part)
            size += len(part)
            if size > limit:
                self.close()
                raise TransportError("too_large", f"answer larger than {limit} bytes")
        return b"".join(parts)

    async def chunk(self) -> bytes:
        """The next bytes of the body; ``b""`` at its end."""
        import aiohttp

        left = self._expires - asyncio.get_running_loop().time()
        try:
            async with asyncio.timeout(min(self._idle, left)):
                return await self._response.content.readany()
        except TimeoutError:
            self.close()
            kind = "timeout" if self._idle <= left else "deadline"
            raise TransportError(kind, "timed out waiting for the next part of the answer") from None
        except (aiohttp.ClientError, aiohttp.http.HttpProcessingError):
            self.close()
            raise TransportError("broken", "the connection ended in the middle of the answer") from None
        except asyncio.CancelledError:
            self.close()
            raise

    def close(self) -> None:
        """Give up; cuts the connection unless the answer is complete."""
        self._response.close()

    def detach(self) -> None:
        """Keep the connection if the answer is complete, cut it otherwise."""
        if self._response.content.at_eof():
            self._response.release()
        else:
            self._response.close()
