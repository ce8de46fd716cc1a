"""Starts a real ``sparkle serve`` for the demo and for ``sparkle chat``, and stops it."""

from __future__ import annotations

import os
import queue
import re
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType

from sparkle.errors import ConfigurationError

_LISTENS = re.compile(r"listens on (http://\S+)")


class ServeProcess:
    """``sparkle serve`` as a child process, as a context manager; ``url`` is its address.

    Args:
        data_dir: Its data folder; the log goes to ``serve.log`` in it.
        config: YAML settings file, or ``None``.
        environ: Further ``SPARKLE_*`` variables.
        port: 0 takes a free port.
        on_wait: Called about every 50 ms while the server starts, for a progress display.
    """

    def __init__(
        self,
        data_dir: Path,
        *,
        config: Path | None = None,
        environ: Mapping[str, str] | None = None,
        port: int = 0,
        on_wait: Callable[[], None] = lambda: None,
    ) -> None:
        self._data_dir = data_dir
        self._argv = [
            sys.executable,
            "-m",
            "sparkle.cli",
            "serve",
            "--port",
            str(port),
            "--data-dir",
            str(data_dir),
        ]
        self._argv.append("--die-with-parent")  # a demo that is killed leaves no server behind
        if config is not None:
            self._argv += ["--config", str(config)]
        self._env = {**os.environ, **(environ or {})}
        self._on_wait = on_wait
        self.url = ""
        self.started_in = 0.0

    def __enter__(self) -> ServeProcess:
        self._data_dir.mkdir(parents=True, exist_ok=True)
        log_path = self._data_dir / "serve.log"
        begun = time.monotonic()
        with log_path.open("ab") as log:
            self._process = subprocess.Popen(
                self._argv,
                env=self._env,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        lines: queue.Queue[str | None] = queue.Queue(maxsize=100)
        threading.Thread(target=self._read, args=(lines,), daemon=True).start()
        deadline = begun + 60
        while not self.url:
            try:
                line = lines.get(timeout=0.05)
            except queue.Empty:
                self._on_wait()
                if time.monotonic() > deadline:
                    self.stop()
                    raise ConfigurationError(f"the server did not start in 60 s; see {log_path}") from None
                continue
            if line is None:
                self._process.wait()
                tail = log_path.read_text(errors="replace").strip().splitlines()[-1:] or ["no output"]
                raise ConfigurationError(f"the server ended at its start: {tail[0]} (log: {log_path})")
            if found := _LISTENS.search(line):
                self.url = found[1]
        self.started_in = time.monotonic() - begun
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def wait(self) -> int:
        """Wait for the server to end by itself."""
        return self._process.wait()

    def stop(self) -> None:
        """SIGTERM, then wait; SIGKILL after 40 s."""
        if self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(timeout=40)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def _read(self, lines: queue.Queue[str | None]) -> None:
        try:
            for line in self._process.stdout or ():
                if not lines.full():
                    lines.put(line)
        except ValueError:
            pass  # closed while reading: the demo is over
        lines.put(None)
