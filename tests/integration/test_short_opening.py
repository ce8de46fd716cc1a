"""Task managers as applications open them: from settings, on whichever event loop, beside the command line."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import uvloop
from click.testing import CliRunner

from sparkle import load_settings, open_task_manager
from sparkle.cli import main
from sparkle.errors import TaskTimeoutError


async def _fail() -> None:
    raise LookupError("gone")


async def _work(folder: Path) -> list[str]:
    settings = load_settings(environ={}, overrides={"data_dir": folder, "tasks.short.concurrency": 2})
    async with open_task_manager(settings) as tasks:
        assert tasks.settings.concurrency == 2
        handles = [await tasks.spawn(asyncio.sleep(0), task_name="good") for _ in range(5)]
        bad = await tasks.spawn_with_retry(_fail, task_name="bad", max_attempts=1)
        slow = await tasks.spawn(asyncio.Event().wait(), task_name="slow", timeout=0.01)
        await asyncio.gather(*handles)
        with pytest.raises(LookupError):
            await bad
        with pytest.raises(TaskTimeoutError):
            await slow
    return [handle.id for handle in (*handles, bad, slow)]


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop], ids=["asyncio", "uvloop"])
def test_short_tasks_are_seen_by_the_command_line(
    loop: Callable[[], asyncio.AbstractEventLoop], tmp_path: Path
) -> None:
    with asyncio.Runner(loop_factory=loop) as runner:
        ids = runner.run(_work(tmp_path))
    listed = CliRunner().invoke(main, ("tasks", "list", "--json", "--data-dir", str(tmp_path)))
    rows = {
        row["id"]: (row["name"], row["state"], row["error"]) for row in json.loads(listed.stdout)["tasks"]
    }
    assert rows.keys() == set(ids)
    assert sorted(set(rows.values()), key=str) == [
        ("bad", "failed", "LookupError"),
        ("good", "succeeded", None),
        ("slow", "failed", "TaskTimeoutError"),
    ]


async def test_without_a_ledger_no_database_is_touched(tmp_path: Path) -> None:
    settings = load_settings(environ={}, overrides={"data_dir": tmp_path / "data"})
    async with open_task_manager(settings, ledger=False) as tasks:
        await (await tasks.spawn(asyncio.sleep(0), task_name="good"))
        assert tasks.health_check().healthy
    assert not (tmp_path / "data").exists()


async def test_importing_the_manager_loads_no_database_library() -> None:
    heavy = ("sqlalchemy", "celery", "alembic")
    code = f"import sys, sparkle.tasks.manager; print([name for name in {heavy} if name in sys.modules])"
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", code, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert out.strip() == b"[]"
