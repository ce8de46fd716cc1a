"""What watching a call costs: CPU per call of the monitor, per check of an API key.

Run ``python -m bench.monitoring``. The monitor is measured as a worker of several runs it: metrics in shared files,
audit on, eight calls finished in a turn of the event loop.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

Rows = list[tuple[str, str]]
_PER_TURN = 8


@dataclass(frozen=True, slots=True)
class _Held:
    id: str = "res_0123456789abcdef0123"


def run(quick: bool = False) -> Rows:
    """Rows of name and figure; about two seconds, a third of it when ``quick``."""
    with tempfile.TemporaryDirectory() as folder:
        # Before the first import of prometheus_client, as the supervisor does it.
        if "prometheus_client" not in sys.modules:
            os.environ.setdefault("PROMETHEUS_MULTIPROC_DIR", folder)
        calls = 10_000 if quick else 40_000
        return [
            ("monitor, metrics only", f"{asyncio.run(_monitor(calls, None)):.1f} us/call"),
            (
                "monitor, metrics and audit",
                f"{asyncio.run(_monitor(calls, Path(folder) / 'audit')):.1f} us/call",
            ),
            ("API key check", f"{_keys(calls, Path(folder)):.2f} us/check"),
        ]


async def _monitor(calls: int, audit_folder: Path | None) -> float:
    from sparkle.clock import SystemClock
    from sparkle.llm.monitoring import AuditLog, LLMMonitor
    from sparkle.llm.policy_source import load_policy
    from sparkle.llm.usage import Principal, Usage
    from sparkle.llm.verdict import ALLOW
    from sparkle.settings import MonitoringSettings

    clock = SystemClock()
    audit = AuditLog(audit_folder, clock=clock) if audit_folder else None
    monitor = LLMMonitor(MonitoringSettings(), audit, clock=clock)
    monitor.use_policy(load_policy())
    monitor.know_models(["gpt-4o-mini"])
    users = [Principal(f"user-{i}", "team", "key") for i in range(64)]
    used, held = Usage(120, 340), _Held()
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for i in range(calls):
            record = monitor.begin(
                request_id="req_0123456789abcdef01234567",
                principal=users[i % 64],
                model="gpt-4o-mini",
                operation="chat",
                stream=False,
                traceparent=None,
            )
            record.input_checked(ALLOW, 0.00005)
            record.reserved(held, 0.00004)
            record.upstream_started()
            record.upstream_finished("openai")
            record.output_checked(ALLOW, 0.00002)
            record.usage(used, 123_456)
            record.finish("ok", 200, "stop")
            if i % _PER_TURN == 0:
                await asyncio.sleep(0)
        best = min(best, time.process_time() - started)
    await monitor.close()
    return best / calls * 1e6


def _keys(checks: int, folder: Path) -> float:
    from sparkle.server.keys import KeyStore

    store = KeyStore(folder / "keys.db")
    key = [store.create(f"user-{i}")[1] for i in range(100)][50]
    best = float("inf")
    for _ in range(3):
        started = time.process_time()
        for _ in range(checks):
            store.verify(key)
        best = min(best, time.process_time() - started)
    store.close()
    return best / checks * 1e6


if __name__ == "__main__":
    for name, figure in run("--quick" in sys.argv):
        print(f"{name:32} {figure}")
