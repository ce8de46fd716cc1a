"""The systems that are measured side by side, and how each is started."""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import msgspec

from bench.errors import BenchError
from bench.servers import Spec, free_port, need_tool, quiet_call

LAYERS = ("input", "quota", "output", "monitoring")
"""The layers that can be switched off; the fifth, the provider call, is what remains."""
_MUCH = "1000000000000"
_BENCH = Path(__file__).parent


@dataclass(frozen=True, slots=True)
class Bench:
    """Where a run keeps its files and whom its gateways call."""

    folder: Path
    upstream: str
    """Base URL of the mock upstream, ending in /v1."""
    litellm: str = ""
    """A Python that has litellm[proxy]; empty: not measured."""

    def workplace(self, name: str) -> Path:
        """A fresh folder for one start of one system."""
        safe = "".join(c if c.isalnum() else "-" for c in name).strip("-").lower()
        path = self.folder / f"{safe}-{secrets.token_hex(4)}"
        path.mkdir()
        return path


def build_mock(folder: Path) -> Path:
    """Compile the mock upstream; returns the program.

    Raises:
        BenchError: No compiler, or it does not compile.
    """
    program = folder / "mock-upstream"
    compiler = need_tool("gcc", "gcc")
    quiet_call(
        [compiler, "-O2", "-o", str(program), str(_BENCH / "mock_upstream.c")], "compiling the mock upstream"
    )
    return program


def mock(program: Path) -> Spec:
    """The upstream itself: a fixed answer of 60 tokens, whole or as 60 chunks."""
    port = free_port()
    return Spec("direct (mock upstream)", (str(program), str(port), "0"), port)


def nginx(bench: Bench) -> Spec:
    """nginx as a reverse proxy with 2 workers: what any proxy could reach at best."""
    port, folder = free_port(), bench.workplace("nginx-conf")
    config = folder / "nginx.conf"
    upstream = bench.upstream.removeprefix("http://").removesuffix("/v1")
    config.write_text(
        f"""{"user root;" if os.geteuid() == 0 else ""}
daemon off;
worker_processes 2;
pid {folder}/nginx.pid;
error_log stderr error;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {folder}/body;
  proxy_temp_path {folder}/proxy;
  fastcgi_temp_path {folder}/fastcgi;
  uwsgi_temp_path {folder}/uwsgi;
  scgi_temp_path {folder}/scgi;
  keepalive_requests 100000000;
  upstream model {{ server {upstream}; keepalive 512; keepalive_requests 100000000; }}
  server {{
    listen 127.0.0.1:{port} reuseport backlog=2048;
    location / {{
      proxy_pass http://model;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_buffering off;
    }}
  }}
}}
"""
    )
    program = need_tool("nginx", "nginx")
    return Spec("nginx, 2 workers", (program, "-e", "stderr", "-p", str(folder), "-c", str(config)), port)


def passthrough(bench: Bench, workers: int = 2) -> Spec:
    """Bare uvicorn and aiohttp, no checks: the same parts as Sparkle's, without Sparkle."""
    port = free_port()
    argv = (sys.executable, "-m", "bench.passthrough", "--port", str(port), "--upstream", bench.upstream)
    return Spec(
        f"pass-through, {_workers(workers)}",
        (*argv, "--workers", str(workers)),
        port,
        env={"PYTHONPATH": str(_BENCH.parent)},
    )


def sparkle(bench: Bench, layers: Iterable[str] = LAYERS, workers: int = 2) -> Spec:
    """Sparkle through its command line with only these layers on.

    Args:
        bench: Where it keeps its files and whom it calls.
        layers: Of :data:`LAYERS`.
        workers: Gateway processes.
    """
    return Spec(
        f"Sparkle, {describe_layers(layers)}, {_workers(workers)}",
        *sparkle_command(bench, layers, workers, program=(str(sparkle_program()),)),
        start_seconds=30.0,
        ready_path="/readyz",
    )


def sparkle_command(
    bench: Bench, layers: Iterable[str], workers: int, *, program: tuple[str, ...]
) -> tuple[tuple[str, ...], int, dict[str, str]]:
    """Command, port and environment of ``sparkle serve`` with only these layers on."""
    on, port, folder = frozenset(layers), free_port(), bench.workplace("sparkle-data")
    if unknown := on - set(LAYERS):
        raise BenchError(f"unknown layers {sorted(unknown)}; there are {LAYERS}")
    policy = folder / "policy.yaml"
    rules = {name: {} if name in on else {"rules": {"*": "off"}} for name in ("input", "output")}
    policy.write_bytes(msgspec.yaml.encode({"version": 1, "name": "bench", **rules}))
    argv = (*program, "serve", "--host", "127.0.0.1", "--port", str(port), "--workers", str(workers))
    argv += ("--data-dir", str(folder), "--upstream", bench.upstream, "--policy", str(policy))
    env = {
        "SPARKLE_QUOTA__TOKENS_PER_DAY": _MUCH if "quota" in on else "0",
        "SPARKLE_MONITORING__AUDIT": "true" if "monitoring" in on else "false",
    }
    return argv, port, env


def describe_layers(layers: Iterable[str]) -> str:
    """``all layers on``, ``all layers off`` or the names of those that are on."""
    on = [name for name in LAYERS if name in frozenset(layers)]
    if len(on) in (0, len(LAYERS)):
        return "all layers on" if on else "all layers off"
    return "only " + " and ".join(on)


def litellm(bench: Bench) -> Spec:
    """LiteLLM's proxy with 2 workers and no guards.

    Raises:
        BenchError: The Python that was named has no LiteLLM beside it.
    """
    program = Path(bench.litellm).absolute().parent / "litellm"
    if not program.exists():
        raise BenchError(f"no litellm beside {bench.litellm}; docs/benchmarks.md says how to install it")
    port, folder = free_port(), bench.workplace("litellm-conf")
    model = {"model": "openai/gpt-mock", "api_base": bench.upstream, "api_key": "sk-mock"}
    slow = {**model, "model": "openai/gpt-mock20"}
    models = [
        {"model_name": "gpt-mock", "litellm_params": model},
        {"model_name": "gpt-mock20", "litellm_params": slow},
    ]
    config = folder / "config.yaml"
    config.write_bytes(msgspec.yaml.encode({"model_list": models}))
    key = "sk-" + secrets.token_hex(16)
    argv = (str(program), "--config", str(config), "--host", "127.0.0.1", "--port", str(port))
    argv += ("--num_workers", "2", "--telemetry", "False")
    env = {
        "LITELLM_LOG": "ERROR",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "LITELLM_MASTER_KEY": key,
        "PATH": f"{program.parent}{os.pathsep}{os.environ.get('PATH', '')}",
    }
    return Spec("LiteLLM proxy, 2 workers", argv, port, env=env, key=key, start_seconds=90.0)


def sparkle_program() -> Path:
    """The ``sparkle`` command of the environment this runs in.

    Raises:
        BenchError: It is not installed.
    """
    program = Path(sys.executable).with_name("sparkle")
    if not program.exists():
        raise BenchError(
            f"no {program.name} command beside {Path(sys.executable).name}; run `make setup-dev` first"
        )
    return program


def _workers(count: int) -> str:
    return f"{count} worker" + ("s" if count > 1 else "")
