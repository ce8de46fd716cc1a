"""A task manager as an application opens it: from the settings, with its records in the ledger."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import TYPE_CHECKING

from sparkle.errors import StoreUnavailableError
from sparkle.settings import Settings, load_settings
from sparkle.tasks.burial import bury_dead
from sparkle.tasks.manager import TaskManager
from sparkle.tasks.processes import open_ledger
from sparkle.tasks.short_metrics import ShortTaskMetrics

if TYPE_CHECKING:
    from sparkle.tasks.ledger import Ledger

log = logging.getLogger("sparkle.tasks")


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
            # Where no relay runs, nobody else would say what became of the tasks of a manager that was killed.
            await asyncio.to_thread(_end_the_dead, opened)
        yield await stack.enter_async_context(
            TaskManager(settings.tasks.short, ledger=opened, metrics=metrics)
        )


def _end_the_dead(ledger: Ledger) -> None:
    try:
        bury_dead(ledger, ("manager",))
        ledger.expire()
    except StoreUnavailableError as exc:
        log.warning("%s", exc.message)  # short tasks go on without a ledger; the next start tries again
