"""An event loop in a thread, for synchronous tests that need a server of this process beside them."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Generator
from contextlib import contextmanager
from typing import Any, TypeVar

from tests.support.upstream import ScriptedUpstream

T = TypeVar("T")


class LoopThread:
    """Runs coroutines on a loop of its own; a context manager."""

    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="test loop", daemon=True)

    def __enter__(self) -> LoopThread:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def run(self, work: Coroutine[Any, Any, T], timeout: float = 60.0) -> T:
        """Run ``work`` on the loop and wait for its result."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(timeout)


@contextmanager
def upstream_in_thread() -> Generator[ScriptedUpstream]:
    """A scripted upstream that serves while the test blocks. Its script may be written from the test's thread."""
    with LoopThread() as thread:
        upstream = ScriptedUpstream()
        thread.run(upstream.start())
        try:
            yield upstream
        finally:
            thread.run(upstream.close())
