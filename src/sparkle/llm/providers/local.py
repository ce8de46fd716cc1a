"""The local model as the gateway sees it: a child process to keep alive, and one more upstream to talk to.

The model runs in a child process (:mod:`.local_server`), so that neither its memory nor its crash touches the gateway.
One process owns the child; any number of gateway workers talk to it over loopback. The ports are reserved for the
owner's whole life (bound with SO_REUSEPORT, never listened on), so that a restarted child answers where its
predecessor did and no other user of the machine can take its place.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from sparkle.errors import ConfigurationError
from sparkle.llm.providers.build import LOCAL_NAME, needs_local
from sparkle.llm.providers.local_settings import CONFIG_VARIABLE, ChildConfig, find_model, local_figures
from sparkle.llm.providers.transport import Timeouts
from sparkle.llm.providers.upstream import Upstream
from sparkle.settings import ProviderSettings

log = logging.getLogger("sparkle.local_model")

_INHERITED = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "PYTHONPATH",
    "LD_LIBRARY_PATH",
)  # no keys of other services
_FIRST_BACKOFF = 0.1
_MAX_BACKOFF = 10.0
_STABLE_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class LocalEndpoint:
    """Where the local model answers. Holds for as long as its owner lives, over restarts of the child."""

    chat_port: int
    embeddings_port: int
    key: str = field(repr=False)

    def upstream(self, *, has_peers: bool = False) -> Upstream:
        """The upstream named ``local``.

        Args:
            has_peers: Other upstreams are configured: then it serves only its own models (and aliases that name it).
                Alone it answers whatever model a caller asks for.
        """
        figures = local_figures()
        names = (figures.chat.model, figures.embeddings.model)
        return Upstream(
            LOCAL_NAME,
            f"http://127.0.0.1:{self.chat_port}/v1",
            api_key=self.key,
            models=names if has_peers else (),
            max_connections=figures.process.connections,
            embeddings_url=f"http://127.0.0.1:{self.embeddings_port}/v1",
            health_url=f"http://127.0.0.1:{self.chat_port}",
            listed=names,  # from the first moment, while the model still loads
            patience=figures.process.patience,
        )


@dataclass(frozen=True, slots=True)
class LocalCommand:
    """How to start the child, for an owner that supervises processes itself."""

    name: str
    argv: tuple[str, ...]
    env: dict[str, str] = field(repr=False)
    """Complete environment of the child; holds the key."""
    log_path: Path
    """For its output; the child itself keeps the file small."""


class LocalModel:
    """Owns the local model's process.

    Either :meth:`start` and :meth:`stop` (a thread starts the child, and again when it dies, with backoff), or an
    owner's own supervisor runs :attr:`command`. The child ends when its owner dies, however that happens.

    Args:
        settings: ``local_model`` and ``local_threads`` are used.
        data_dir: Where the child's log goes (``local-model.log``); made if missing.

    Raises:
        MissingExtraError: The extra ``local`` is not installed.
        ConfigurationError: ``local_model`` names no file.
    """

    def __init__(self, settings: ProviderSettings, data_dir: Path) -> None:
        self._model_file = find_model(settings)
        self._threads = settings.local_threads or max(1, _cores() - 1)
        self._log_path = data_dir / "local-model.log"
        self._reserved = [_reserve(), _reserve()]
        ports: list[int] = [sock.getsockname()[1] for sock in self._reserved]
        #: Where the model answers, for :func:`~sparkle.llm.providers.build.build_router`.
        self.endpoint = LocalEndpoint(ports[0], ports[1], "sk-local-" + secrets.token_urlsafe(32))
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._starts = 0

    def __repr__(self) -> str:
        return f"LocalModel(pid={self.pid}, starts={self._starts})"

    @classmethod
    def wanted(cls, settings: ProviderSettings, data_dir: Path) -> LocalModel | None:
        """The local model if the settings need it; raises as the constructor."""
        return cls(settings, data_dir) if needs_local(settings) else None

    @property
    def pid(self) -> int | None:
        """Process id of the child that :meth:`start` keeps alive; ``None`` while there is none."""
        process = self._process
        return process.pid if process is not None and process.returncode is None else None

    @property
    def starts(self) -> int:
        """How often the child was started."""
        return self._starts

    @property
    def command(self) -> LocalCommand:
        """How to start the child. Its parent must be the process that reads this property."""
        config = ChildConfig(
            parent=os.getpid(),
            key=self.endpoint.key,
            chat_port=self.endpoint.chat_port,
            embeddings_port=self.endpoint.embeddings_port,
            model_file=str(self._model_file),
            threads=self._threads,
        )
        env = {name: os.environ[name] for name in _INHERITED if name in os.environ}
        # BLAS reads its number of threads once, when it is loaded; more than one make a text a hundred times slower.
        env |= {"OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        env[CONFIG_VARIABLE] = msgspec.json.encode(config).decode()
        argv = (sys.executable, "-m", "sparkle.llm.providers.local_server")
        return LocalCommand("local model", argv, env, self._log_path)

    async def start(self) -> None:
        """Start the child and wait until it answers.

        Raises:
            ConfigurationError: It ended, or did not answer within a minute; its log says why.
        """
        if self._thread is not None:
            return
        # The kernel ties the child's life to the thread that started it, not to the process: this one lives till
        # stop() is called.
        self._thread = threading.Thread(target=self._supervise, name="local model", daemon=True)
        self._thread.start()
        try:
            await self._answering()
        except BaseException:
            await self.stop()
            raise

    async def stop(self) -> None:
        """End the child and free the ports. May be called twice; the object cannot be started again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.to_thread(self._end_child, thread)
        for sock in self._reserved:
            sock.close()

    async def _answering(self) -> None:
        timeout = local_figures().process.start_timeout
        upstream = self.endpoint.upstream()
        await upstream.start(Timeouts(connect=1.0, first_byte=timeout, idle=timeout))
        try:
            async with asyncio.timeout(timeout):
                while not await upstream.healthy():
                    if self._starts > 1:
                        raise ConfigurationError(f"the local model does not start; see {self._log_path}")
                    await asyncio.sleep(0.02)
        except TimeoutError:
            raise ConfigurationError(
                f"the local model did not answer in time; see {self._log_path}"
            ) from None
        finally:
            await upstream.close()

    def _supervise(self) -> None:
        """Thread: start the child, wait for its end, start it again."""
        backoff = _FIRST_BACKOFF
        while True:
            with self._lock:  # stop() sees either no new child or one that it can end
                if self._stopping.is_set():
                    return
                process = self._spawn()
            started = time.monotonic()
            code = process.wait()
            if self._stopping.is_set():
                return
            log.warning("the local model (pid %d) ended with %d; starting it again", process.pid, code)
            if time.monotonic() - started >= _STABLE_SECONDS:
                backoff = _FIRST_BACKOFF
            self._stopping.wait(backoff)
            backoff = min(backoff * 2, _MAX_BACKOFF)

    def _spawn(self) -> subprocess.Popen[bytes]:
        command = self.command
        command.log_path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        out = os.open(command.log_path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            self._process = subprocess.Popen(
                command.argv,
                env=command.env,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # a Ctrl-C on the terminal is the owner's to handle
            )
        finally:
            os.close(out)
        self._starts += 1
        return self._process

    def _end_child(self, thread: threading.Thread) -> None:
        with self._lock:
            self._stopping.set()
            process = self._process
        if process is not None:
            process.terminate()
            thread.join(local_figures().process.stop_timeout)
            if thread.is_alive():
                process.kill()
        thread.join()


def _cores() -> int:
    """Cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _reserve() -> socket.socket:
    """A free loopback port that stays ours. Never listened on, so the kernel sends every connection to the child."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    sock.bind(("127.0.0.1", 0))
    return sock
