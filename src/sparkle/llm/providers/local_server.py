"""The local model's process: llama.cpp's HTTP server for chat, a small one for embeddings.

Run by :class:`~sparkle.llm.providers.local.LocalModel` as ``python -m sparkle.llm.providers.local_server``; its
configuration comes in an environment variable. It ends with its parent, on SIGTERM, and when llama.cpp's server does
not answer its own health check any more; whoever owns it starts it again.
"""

from __future__ import annotations

import ctypes
import faulthandler
import http.client
import importlib
import logging
import os
import signal
import stat
import sys
import threading
from types import FrameType
from typing import Any

import msgspec

from sparkle.llm.providers.local_embeddings import EmbeddingServer
from sparkle.llm.providers.local_settings import CONFIG_VARIABLE, ChildConfig, LocalFigures, local_figures

log = logging.getLogger("sparkle.local_server")

EXIT_ORPHAN, EXIT_UNHEALTHY, EXIT_CONFIG = 3, 4, 2
_PR_SET_PDEATHSIG = 1


def main() -> int:
    """Serve until told to end; returns the exit code."""
    text = os.environ.pop(CONFIG_VARIABLE, "")
    figures = local_figures()
    _shorten_log(figures.process.log_bytes)
    logging.basicConfig(
        stream=sys.stderr, level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s"
    )
    try:
        config = msgspec.json.decode(text, type=ChildConfig)
    except msgspec.DecodeError:
        log.error("this program is started by Sparkle, not by hand")
        return EXIT_CONFIG
    stop = threading.Event()

    def on_signal(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, on_signal)
    signal.signal(signal.SIGINT, on_signal)
    if not _bind_to(config.parent):
        return EXIT_ORPHAN
    os.nice(figures.process.nice)
    embeddings = EmbeddingServer(config.embeddings_port, config.key, figures.embeddings)
    embeddings.start()
    server = start_chat(config, figures)
    log.info("serving %s and %s", figures.chat.model, figures.embeddings.model)
    _mute_native_output()
    code = _watch(config, figures, stop)
    del server  # kept alive until here: llama.cpp's server ends with its object
    return code


def start_chat(config: ChildConfig, figures: LocalFigures) -> object:
    """Load the model and serve it; returns the object whose life is the server's."""
    xllamacpp: Any = importlib.import_module("xllamacpp")  # a Cython module without type information
    chat = figures.chat
    params: Any = xllamacpp.CommonParams()
    params.model.path = config.model_file
    params.model_alias = {chat.model}
    params.hostnames = ["127.0.0.1"]
    params.port = config.chat_port
    params.reuse_port = True  # the parent holds the port for us
    params.api_keys = [config.key]
    params.n_ctx = chat.context_tokens
    params.n_parallel = chat.slots
    params.kv_unified = True  # one request alone may use the whole context
    params.n_threads_http = chat.http_threads
    for cpu in (params.cpuparams, params.cpuparams_batch):
        cpu.n_threads = config.threads
        cpu.poll = 0  # no busy waiting: the gateway shares these cores
    params.sampling.temp = chat.temperature
    params.sampling.top_p = chat.top_p
    params.n_gpu_layers = 0
    params.fit_params = False
    params.warmup = False
    params.cache_ram_mib = 0  # its default keeps up to 8 GB of old prompts
    params.ui = False
    params.endpoint_slots = params.endpoint_props = params.endpoint_metrics = False
    params.verbosity = 1
    return xllamacpp.Server(params)


def _watch(config: ChildConfig, figures: LocalFigures, stop: threading.Event) -> int:
    """Return when it is time to end."""
    failures = 0
    ticks_per_check = max(1, round(figures.process.health_interval))
    tick = 0
    while not stop.wait(1.0):
        if os.getppid() != config.parent:
            return EXIT_ORPHAN
        tick += 1
        if tick % ticks_per_check == 0:
            failures = 0 if _healthy(config.chat_port, figures.process.health_timeout) else failures + 1
            if failures >= figures.process.health_failures:
                log.error("the model's server does not answer its health check")
                return EXIT_UNHEALTHY
    return 0


def _healthy(port: int, timeout: float) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("GET", "/health")
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _bind_to(parent: int) -> bool:
    """End when the parent ends; False when it has ended already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    return os.getppid() == parent


def _shorten_log(limit: int) -> None:
    """Start the log anew when it has grown; a process that is restarted for ever must not fill the disk."""
    status = os.fstat(2)
    if stat.S_ISREG(status.st_mode) and status.st_size > limit:
        os.ftruncate(2, 0)


def _log_to_stderr() -> None:
    logging.basicConfig(
        stream=sys.stderr, level="INFO", format="%(asctime)s %(levelname)s %(name)s %(message)s", force=True
    )


def _mute_native_output() -> None:
    """Send what llama.cpp prints from now on to nowhere: its messages can quote a request.

    Loading is over, so nothing is lost that an operator needs; a crash still leaves its trace.
    """
    sys.stderr.flush()
    sys.stderr = os.fdopen(os.dup(2), "w", buffering=1)
    faulthandler.enable(sys.stderr)
    _log_to_stderr()
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, 1)
    os.dup2(null, 2)
    os.close(null)


if __name__ == "__main__":
    _code = main()
    logging.shutdown()
    # llama.cpp's threads are in the middle of work; there is no state to save and nobody to wait for.
    os._exit(_code)
