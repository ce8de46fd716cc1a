"""Scheduling touches the ledger and nothing else: the broker may be dead, frozen or never have existed."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

from tests.support.serve import clean_environ

ROOT = Path(__file__).resolve().parents[2]
_SCRIPT = """
import sys
import socket

connected = []
socket.socket.connect = lambda self, address: connected.append(address)
socket.socket.connect_ex = lambda self, address: connected.append(address)

import sparkle

record = sparkle.schedule_long_task("health_check")
assert record.state == "waiting", record
loaded = {"kombu", "celery", "redis", "amqp", "valkey"} & set(sys.modules)
assert not loaded, loaded
assert not connected, connected
sparkle.close_tasks()
print(record.id)
"""


def test_schedule_long_task_neither_imports_a_broker_client_nor_opens_a_connection(tmp_path: Path) -> None:
    # A listener that never accepts: whoever connected to it would wait.
    with socket.socket() as frozen:
        frozen.bind(("127.0.0.1", 0))
        frozen.listen(0)
        url = f"redis://127.0.0.1:{frozen.getsockname()[1]}/0"
        environ = {
            "SPARKLE_DATA_DIR": str(tmp_path),
            "SPARKLE_TASKS__BROKER_URL": url,
            "PYTHONPATH": str(ROOT),
        }
        done = subprocess.run(
            [sys.executable, "-c", _SCRIPT],
            env=clean_environ(environ),
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.strip()) == 36


def test_importing_tasks_loads_neither_celery_nor_sqlalchemy() -> None:
    script = (
        "import sys, sparkle, sparkle.tasks, sparkle.tasks.registry, sparkle.tasks.context, sparkle.tasks.schedule\n"
        "import sparkle.tasks.ledger_metrics, sparkle.tasks.commands, sparkle.cli_worker\n"
        "print(*({'celery', 'kombu', 'redis', 'sqlalchemy', 'alembic'} & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stdout.strip() == ""
