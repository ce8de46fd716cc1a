"""A task manager as an application opens it: from the settings, with its records in the ledger."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager

from sparkle.settings import Settings, load_settings
from sparkle.tasks.manager import TaskManager
from sparkle.tasks.processes import open_ledger
from sparkle.tasks.short_metrics import ShortTaskMetrics


@asynccontextmanager
async def open_task_manager(
    settings: Settings | None = None, *, ledger: bool = True, metrics: ShortTaskMetrics | None = None
) -> AsyncGenerator[TaskManager]:
    """A :class:`TaskManager` for the running event loop, drained at the end of the block.

    ::

        async with open_task_manager() as task_manager:
            await task_manager.spawn(embed(text), task_name="embed", user_id="alice")

    Args:
        settings: ``None`` reads them as every command does.
        ledger: Keep the records beside those of long tasks, so that ``sparkle tasks`` shows and cancels both. False
            needs no database.
        metrics: The series to count in; ``None`` makes some of its own.

    Raises:
        ConfigurationError: The settings are wrong.
        MissingExtraError: The extra ``tasks`` is not installed.
        LedgerUnavailableError: The ledger does not answer.
        LedgerSchemaError: Its tables are missing or of another version.
    """
    settings = settings or load_settings()
    async with AsyncExitStack() as stack:
        opened = None
        if ledger:
            opened = await asyncio.to_thread(open_ledger, settings)
            stack.callback(opened.close)
        yield await stack.enter_async_context(
            TaskManager(settings.tasks.short, ledger=opened, metrics=metrics)
        )
