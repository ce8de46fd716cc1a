"""Stands where a page names a paid provider: a real HTTP upstream, in a thread of its own.

A page may ask it to ``Repeat: TEXT``, so that what the output guard does can be shown; everything else gets words.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Any

from tests.support.upstream import ScriptedUpstream
from tests.support.upstream_answers import Step
from tests.support.upstream_wire import RecordedRequest

MODELS = ("gpt-4o-mini", "gpt-4o", "qwen2.5:7b", "text-embedding-3-small")
_WORDS = ("A limit", " is what", " a sequence", " comes as close to", " as you like", ".")
_REPEAT = "Repeat: "
_CUT = 3
"""Characters of one streamed piece: small enough to cut every value that a page plants."""


class ScriptedProvider:
    """The upstream, as a context manager; ``url`` is its base URL."""

    def __init__(self) -> None:
        self.url = ""
        self._up = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: Callable[[], object] | None = None
        self._thread = threading.Thread(target=lambda: asyncio.run(self._serve()), daemon=True)

    def __enter__(self) -> ScriptedProvider:
        self._thread.start()
        assert self._up.wait(10), "the scripted provider did not start"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(10)

    async def _serve(self) -> None:
        done = asyncio.Event()
        async with ScriptedUpstream(models=MODELS) as upstream:
            upstream.respond(_answer)
            self.url, self._loop, self._stop = upstream.url, asyncio.get_running_loop(), done.set
            self._up.set()
            await done.wait()


def _answer(request: RecordedRequest) -> Step:
    body: dict[str, Any] = request.json if request.method == "POST" else {}
    messages: list[dict[str, Any]] = body.get("messages") or [{}]
    said = messages[-1].get("content")
    if isinstance(said, str) and said.startswith(_REPEAT):
        text = said.removeprefix(_REPEAT)
        return Step(pieces=tuple(text[i : i + _CUT] for i in range(0, len(text), _CUT)))
    return Step(pieces=_WORDS)
