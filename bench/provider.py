"""What the call to the upstream costs: CPU per call of Sparkle's client beside a bare aiohttp POST, per stream event.

Run ``python -m bench.provider``. Both clients call the same mock upstream in a process of its own; CPU time is that of
the client's process, kernel included. Sparkle's figure is the whole router: encoding the request, choosing the
upstream, its circuit, deadline, the check that the answer is JSON, the event for the metrics.
"""

from __future__ import annotations

import asyncio
import random
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

Rows = list[tuple[str, str]]

_BODY = {
    "model": "gpt-mock",
    "temperature": 0.7,
    "messages": [
        {"role": "system", "content": "You are a helpful assistant."},
        {"role": "user", "content": "Explain in two sentences what a reverse proxy does."},
    ],
}
_TRACE = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
_EVENTS = 60  # events of one stream of the mock


def run(quick: bool = False) -> Rows:
    """Rows of name and figure; about ten seconds, a quarter of it when ``quick``."""
    from bench.servers import running
    from bench.systems import build_mock, mock

    with tempfile.TemporaryDirectory() as folder:
        spec = mock(build_mock(Path(folder)))
        with running(spec, Path(folder) / "mock", msgspec.json.encode(_BODY)):
            import uvloop

            return uvloop.run(_measure(f"http://127.0.0.1:{spec.port}/v1", 4_000 if quick else 16_000))


async def _measure(url: str, calls: int) -> Rows:
    import aiohttp
    from yarl import URL

    from sparkle.clock import SystemClock
    from sparkle.llm.providers import ProviderRouter, Upstream
    from sparkle.settings import ProviderSettings

    router = ProviderRouter(
        ProviderSettings(),
        [Upstream("mock", url, api_key="sk-mock")],
        clock=SystemClock(),
        rng=random.Random(1),
        observe=lambda event: None,
    )
    await router.start()
    bare = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=512),
        cookie_jar=aiohttp.DummyCookieJar(),
        skip_auto_headers=("User-Agent", "Content-Type"),
        timeout=aiohttp.ClientTimeout(total=None),
        headers={"Accept-Encoding": "identity"},
    )
    target, body = URL(url + "/chat/completions"), msgspec.json.encode(_BODY)
    headers = {"Content-Type": "application/json", "Authorization": "Bearer sk-mock", "traceparent": _TRACE}

    async def sparkle_call() -> None:
        await router.chat(_BODY, headers={"traceparent": _TRACE})

    async def aiohttp_call() -> None:
        async with bare.post(target, data=body, headers=headers, allow_redirects=False) as response:
            await response.read()

    async def sparkle_stream() -> None:
        async for _ in await router.stream(_BODY):
            pass

    try:
        rows: Rows = []
        for together in (64, 1):
            ours = await _cpu(sparkle_call, calls, together)
            theirs = await _cpu(aiohttp_call, calls // 2, together)
            rows += [
                (f"call, {together} at once", f"{ours:.1f} us CPU"),
                (f"bare aiohttp POST, {together} at once", f"{theirs:.1f} us CPU"),
                (f"ratio, {together} at once", f"{ours / theirs:.2f}"),
            ]
        streams = max(64, calls // 16)
        per_event = await _cpu(sparkle_stream, streams, 64) / _EVENTS
        rows.append(("stream, 64 at once", f"{per_event:.1f} us CPU an event"))
    finally:
        await router.close()
        await bare.close()
    event = b'data: {"id":"chatcmpl-1","object":"chat.completion.chunk","choices":[{"delta":{"content":"word"}}]}\n\n'
    whole, cut = _decode(event * 20_000, len(event) * 4), _decode(event * 20_000, 37)
    rows.append(("events decoded, 4 to a chunk", f"{whole:.0f} MB/s"))
    rows.append(("events decoded, chunks of 37 bytes", f"{cut:.0f} MB/s"))
    return rows


async def _cpu(call: Callable[[], Awaitable[None]], calls: int, together: int) -> float:
    """Microseconds of CPU per call; the best of three."""

    async def repeat(times: int) -> None:
        for _ in range(times):
            await call()

    await repeat(50)
    best = float("inf")
    each = max(1, calls // together // 3)
    for _ in range(3):
        started = time.process_time()
        await asyncio.gather(*(repeat(each) for _ in range(together)))
        best = min(best, (time.process_time() - started) / (each * together))
    return best * 1e6


def _decode(text: bytes, size: int) -> float:
    """Megabytes a second."""
    from sparkle.llm.providers.sse import SSEDecoder

    chunks = [text[start : start + size] for start in range(0, len(text), size)]
    sse = SSEDecoder()
    started = time.process_time()
    for chunk in chunks:
        sse.feed(chunk)
    return len(text) / (time.process_time() - started) / 1e6


if __name__ == "__main__":
    for name, figure in run("--quick" in sys.argv):
        print(f"{name:36} {figure}")
