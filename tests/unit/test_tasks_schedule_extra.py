"""Scheduling without the extra `tasks`."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sparkle
from sparkle import schedule_long_task
from sparkle.errors import MissingExtraError

# Without the extra ----------------------------------------------------------------------------------------------------


def test_importing_the_room_loads_neither_sqlalchemy_nor_celery() -> None:
    code = (
        "import sys, sparkle.tasks, sparkle.tasks.schedule, sparkle.tasks.celery_tasks, sparkle.tasks.calls\n"
        "print([n for n in ('sqlalchemy', 'celery', 'kombu', 'alembic', 'numpy') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_without_the_extra_the_error_names_it(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("sparkle.tasks.tasks")]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("sqlalchemy", "sqlalchemy.orm"):
        monkeypatch.setitem(sys.modules, name, None)
    sparkle.close_tasks()
    with pytest.raises(MissingExtraError, match=r"pip install 'sparkle-llm\[tasks\]'"):
        schedule_long_task("health_check")
