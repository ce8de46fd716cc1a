"""What ``sparkle serve`` keeps in order: its metrics folders and the names in its log."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import pytest

from sparkle.server.logs import log_to_stderr
from sparkle.server.metrics_folder import metrics_folder

OWNER = """
import sys, pathlib
from sparkle.server.metrics_folder import metrics_folder
with metrics_folder(pathlib.Path(sys.argv[1])) as folder:
    (folder / "counter_1.db").write_bytes(b"x")
    print(folder, flush=True)
    exec(sys.argv[2])
    sys.stdin.read()
    import os
    os._exit(0)
"""


def owner(data_dir: Path, then: str = "") -> tuple[subprocess.Popen[str], Path]:
    """Another server's process, which runs ``then``, and its folder."""
    argv = [sys.executable, "-c", OWNER, str(data_dir), then]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_a_folder_is_removed_when_its_server_ends(tmp_path: Path) -> None:
    with metrics_folder(tmp_path) as folder:
        assert folder.is_dir()
    assert list(tmp_path.iterdir()) == []


def test_the_folder_of_a_killed_server_is_removed_by_the_next(tmp_path: Path) -> None:
    process, stale = owner(tmp_path)
    end(process)
    assert (stale / "counter_1.db").exists()
    with metrics_folder(tmp_path) as folder:
        assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def test_the_folder_of_a_living_server_stays(tmp_path: Path) -> None:
    process, theirs = owner(tmp_path)
    try:
        with metrics_folder(tmp_path) as mine:
            assert {path.name for path in tmp_path.iterdir()} == {theirs.name, mine.name}
    finally:
        end(process)


def test_a_worker_that_outlives_its_killed_supervisor_keeps_the_folder(tmp_path: Path) -> None:
    process, theirs = owner(tmp_path, "import os\nif os.fork(): os.kill(os.getpid(), 9)")
    assert process.stdin is not None
    assert process.stdout is not None
    process.wait()
    with metrics_folder(tmp_path):
        assert theirs.is_dir()
    process.stdin.close()
    process.stdout.read()  # ends with the worker
    process.stdout.close()
    with metrics_folder(tmp_path) as mine:
        assert {path.name for path in tmp_path.iterdir()} == {mine.name}


def test_the_http_servers_records_bear_our_name(caplog: pytest.LogCaptureFixture) -> None:
    log_to_stderr("info")
    log_to_stderr("info")
    with caplog.at_level(logging.INFO, logger="uvicorn.error"):
        logging.getLogger("uvicorn.error").info("Application startup complete.")
    assert [record.name for record in caplog.records] == ["sparkle.server"]
    assert len(logging.getLogger("uvicorn.error").filters) == 1
