"""What stands for the services of others that pages name: real servers of ours, started when a page needs them."""

from __future__ import annotations

from contextlib import ExitStack
from types import TracebackType

from tests.docs.scripted_provider import ScriptedProvider
from tests.support.valkey import running_valkey

_PROVIDERS = ("https://api.openai.com/v1",)
_STORES = ("redis://10.0.0.5:6379/0",)


class StandIns:
    """Starts stand-ins and puts their addresses in place of the documented ones. Nothing leaves this machine."""

    def __init__(self) -> None:
        self._running = ExitStack()
        self._provider = ""
        self._store = ""

    def __enter__(self) -> StandIns:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._running.close()

    def provider(self) -> str:
        """Base URL of the scripted provider."""
        if not self._provider:
            self._provider = self._running.enter_context(ScriptedProvider()).url
        return self._provider

    def store(self) -> str:
        """URL of a real Valkey."""
        if not self._store:
            self._store = self._running.enter_context(running_valkey()).url
        return self._store

    def translated(self, text: str) -> str:
        """``text`` with the addresses of stand-ins."""
        for addresses, start in ((_PROVIDERS, self.provider), (_STORES, self.store)):
            for address in addresses:
                if address in text:
                    text = text.replace(address, start())
        return text
