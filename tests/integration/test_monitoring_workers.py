"""The metrics of forked workers add up, and a worker that died takes its running calls with it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = r"""
import asyncio, os, signal, sys
from pathlib import Path
from sparkle.llm.monitoring import LLMMonitor, forget_process, share_metrics

share_metrics(Path(sys.argv[1]))

from sparkle.clock import SystemClock
from sparkle.llm.usage import Principal, Usage
from sparkle.settings import MonitoringSettings


def call(monitor):
    return monitor.begin(request_id="r", principal=Principal("u"), model="m", operation="chat",
                         stream=False, traceparent=None)


async def work(ready, calls):
    monitor = LLMMonitor(MonitoringSettings(), None, clock=SystemClock())
    monitor.know_models(["m"])
    for _ in range(calls):
        record = call(monitor)
        record.usage(Usage(10, 5), 0)
        record.finish("ok", 200)
    call(monitor)  # still running
    monitor.flush()
    os.write(ready, b".")
    await asyncio.Event().wait()


def inflight(text):
    return [line for line in text.splitlines() if line.startswith("sparkle_inflight")]


reading, writing = os.pipe()
pids = []
for calls in (100, 200, 300):
    pid = os.fork()
    if pid == 0:
        asyncio.run(work(writing, calls))
    pids.append(pid)
got = b""
while len(got) < 3:
    got += os.read(reading, 3)
parent = LLMMonitor(MonitoringSettings(), None, clock=SystemClock())
text = parent.render_metrics()[0].decode()
print(text)
print("before", inflight(text))
os.kill(pids[0], signal.SIGKILL)
os.waitpid(pids[0], 0)
forget_process(pids[0])
text = parent.render_metrics()[0].decode()
print("after", inflight(text))
print("kept", 'sparkle_requests_total{model="m",operation="chat",outcome="ok"} 600.0' in text)
for pid in pids[1:]:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def run(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", SCRIPT, str(folder)], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_forked_workers_add_up(tmp_path: Path) -> None:
    folder = tmp_path / "metrics"
    folder.mkdir()
    (folder / "counter_1.db").write_bytes(b"of an earlier run")
    shown = run(folder)
    assert 'sparkle_requests_total{model="m",operation="chat",outcome="ok"} 600.0' in shown
    assert 'sparkle_tokens_total{kind="prompt",model="m"} 6000.0' in shown
    assert 'sparkle_request_duration_seconds_count{operation="chat"} 600.0' in shown
    assert 'sparkle_request_duration_seconds_bucket{le="300.0",operation="chat"} 600.0' in shown
    assert "sparkle_build_info{" in shown
    assert "before ['sparkle_inflight_requests 3.0']" in shown
    assert "after ['sparkle_inflight_requests 2.0']" in shown
    assert "kept True" in shown


def test_sharing_too_late_is_an_error_not_a_wrong_sum(tmp_path: Path) -> None:
    script = (
        "import sys, prometheus_client\nfrom pathlib import Path\n"
        "from sparkle.llm.monitoring import share_metrics\nshare_metrics(Path(sys.argv[1]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    assert "ConfigurationError" in done.stderr


def test_tracing_that_is_off_loads_no_telemetry_and_no_metrics_before_a_monitor_is_built() -> None:
    script = (
        "import sys\nimport sparkle.llm.monitoring\n"
        "print([m for m in sys.modules if m.partition('.')[0] in ('opentelemetry', 'prometheus_client')])\n"
        "from sparkle.clock import SystemClock\nfrom sparkle.settings import MonitoringSettings\n"
        "sparkle.llm.monitoring.LLMMonitor(MonitoringSettings(), None, clock=SystemClock())\n"
        "print([m for m in sys.modules if m.startswith('opentelemetry')])\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.stdout == "[]\n[]\n", done.stderr
