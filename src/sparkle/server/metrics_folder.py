"""The folder in which the workers of one server add up their metrics: made at start, removed at the end.

A server that was killed cannot remove its own. The next one does, once it knows that nobody uses it any more: the
supervisor and its workers hold a lock on a file in it, which the kernel lets go of when the last of them has died.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path

_PREFIX = "metrics-"
_LOCK = "owner.lock"


@contextmanager
def metrics_folder(data_dir: Path) -> Generator[Path]:
    """A fresh folder for this server and the processes it forks; those of dead servers are removed.

    Raises:
        OSError: The folder cannot be made.
    """
    _remove_orphans(data_dir)
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=data_dir))
    lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def _remove_orphans(data_dir: Path) -> None:
    for folder in data_dir.glob(f"{_PREFIX}*"):
        try:
            lock = os.open(folder / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except OSError:
            continue  # without the file nobody can tell whether its owner lives: it may be starting now
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            continue  # in use
        else:
            shutil.rmtree(folder, ignore_errors=True)
        finally:
            os.close(lock)
