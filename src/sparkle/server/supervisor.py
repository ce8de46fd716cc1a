"""The parent process of ``sparkle serve``: binds the port, loads the code once, forks workers, keeps them alive.

Workers are forked after the heavy parts (code, rules, their automata) are loaded, so that they share that memory. The
parent itself runs no event loop and no thread; it sleeps in ``select`` until a child dies or a signal comes.
"""

from __future__ import annotations

import ctypes
import gc
import logging
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field

from sparkle.errors import ConfigurationError, SparkleError

log = logging.getLogger("sparkle.supervisor")

_STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)
_PR_SET_PDEATHSIG = 1
_FIRST_BACKOFF = 0.1
_MAX_BACKOFF = 10.0
_STABLE_SECONDS = 10.0
"""A child that lived this long starts again at once when it dies."""
_KILL_GRACE = 5.0


def _trim() -> None:
    """Give the system back what loading has freed, before every worker inherits it (1 MB a process; glibc only)."""
    if trim := getattr(ctypes.CDLL(None), "malloc_trim", None):
        trim(0)


def bind(host: str, port: int, count: int) -> list[socket.socket]:
    """``count`` listening sockets on one port; more than one share it with SO_REUSEPORT.

    Raises:
        ConfigurationError: The address is taken or not ours.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        # Without REUSEPORT first: a second server on the same port must fail instead of sharing it silently.
        first = _bound(family, host, port, shared=False)
        port = first.getsockname()[1]
        if count == 1:
            return [first]
        first.close()
        return [_bound(family, host, port, shared=True) for _ in range(count)]
    except OSError as exc:
        raise ConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from None


def _bound(family: socket.AddressFamily, host: str, port: int, *, shared: bool) -> socket.socket:
    sock = socket.socket(family, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.bind((host, port))
        sock.listen(2048)
        sock.set_inheritable(True)
    except OSError:
        sock.close()
        raise
    return sock


def die_with_parent(sig: int = signal.SIGTERM) -> None:
    """Ask the kernel to signal this process when its parent dies (Linux; elsewhere nothing)."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, sig, 0, 0, 0)


@dataclass(slots=True)
class _Child:
    name: str
    start: Callable[[], int]
    stage: int
    """When it is stopped: stage 0 first and with the drain time, each later one when those before have ended."""
    essential: bool = False
    """Whether the start has failed if it dies before the server is ready."""
    pid: int = 0
    started: float = 0.0
    backoff: float = _FIRST_BACKOFF
    due: float = 0.0
    """When to start it again; 0 while it runs."""


@dataclass(slots=True)
class Supervisor:
    """Starts children, restarts those that die, stops all in order."""

    drain_seconds: float
    on_ready: Callable[[], None] = lambda: None
    on_child_exit: Callable[[int], None] = lambda pid: None
    on_stop: Callable[[], None] = lambda: None
    """Called once when the stop begins, before any child is told."""
    _children: list[_Child] = field(default_factory=list[_Child])
    _ready_read: int = -1
    _ready_write: int = -1
    _awaited: int = 0

    def add_worker(self, name: str, run: Callable[[Callable[[], None]], int]) -> None:
        """A forked worker; ``run(ready)`` calls ``ready`` once it serves and returns the exit code."""
        self._children.append(_Child(name, lambda: self._fork(run), stage=0, essential=True))
        self._awaited += 1

    def add_command(
        self,
        name: str,
        argv: Sequence[str],
        env: Mapping[str, str],
        log_path: str | None,
        *,
        stage: int = 1,
    ) -> None:
        """An executed helper process.

        Args:
            name: For the log.
            argv: Its command line.
            env: Its whole environment.
            log_path: File for its output; ``None``: our own standard error.
            stage: When it is stopped: 0 together with the workers, and with their time to drain; higher ones later.
        """
        self._children.append(_Child(name, lambda: _spawn(argv, env, log_path), stage))

    def run(self) -> int:
        """Run until SIGTERM or SIGINT; returns the exit code (0, or 1 when a worker never came up)."""
        self._ready_read, self._ready_write = os.pipe()
        wake_read, wake_write = os.pipe()
        for fd in (self._ready_read, wake_read, wake_write):
            os.set_blocking(fd, False)
        stopping = False

        def stop(signum: int, frame: object) -> None:
            nonlocal stopping
            stopping = True

        for sig in _STOP_SIGNALS:
            signal.signal(sig, stop)
        signal.signal(signal.SIGCHLD, lambda signum, frame: None)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        gc.collect()
        _trim()
        gc.freeze()  # keep the collector from touching, and so copying, the pages the workers share
        failed = False
        try:
            for child in self._children:
                self._start(child)
            while not stopping and not failed:
                timeout = min((c.due - time.monotonic() for c in self._children if c.due), default=None)
                readable, _, _ = select.select(
                    [self._ready_read, wake_read], [], [], None if timeout is None else max(0.0, timeout)
                )
                if wake_read in readable:
                    os.read(wake_read, 4096)
                if self._ready_read in readable:
                    self._count_ready(len(os.read(self._ready_read, 4096)))
                failed = self._reap()
                self._restart_due()
        finally:
            self._stop_all()
            signal.set_wakeup_fd(-1)
        return 1 if failed else 0

    def _count_ready(self, arrived: int) -> None:
        if self._awaited > 0:
            self._awaited -= arrived
            if self._awaited <= 0:
                self.on_ready()

    def _start(self, child: _Child) -> None:
        child.pid, child.started, child.due = child.start(), time.monotonic(), 0.0

    def _reap(self) -> bool:
        """Collect the dead; true if a worker died before the server ever was ready (a restart would not help)."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return False
            child = next((c for c in self._children if c.pid == pid), None)
            if child is None:
                continue
            self.on_child_exit(pid)
            child.pid = 0
            if child.essential and self._awaited > 0:
                return True
            lived = time.monotonic() - child.started
            child.backoff = (
                _FIRST_BACKOFF if lived >= _STABLE_SECONDS else min(child.backoff * 2, _MAX_BACKOFF)
            )
            child.due = time.monotonic() + (0.0 if lived >= _STABLE_SECONDS else child.backoff)
            code = os.waitstatus_to_exitcode(status)
            log.warning("%s (pid %d) ended with %d; starting it again", child.name, pid, code)

    def _restart_due(self) -> None:
        now = time.monotonic()
        for child in self._children:
            if child.due and child.due <= now:
                self._start(child)

    def _fork(self, run: Callable[[Callable[[], None]], int]) -> int:
        parent = os.getpid()
        pid = os.fork()
        if pid:
            return pid
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            for sig in (*_STOP_SIGNALS, signal.SIGCHLD):
                signal.signal(sig, signal.SIG_DFL)
            die_with_parent()
            if os.getppid() != parent:
                os._exit(1)  # the parent died in between
            code = run(self._tell_ready)
        except KeyboardInterrupt:
            code = 0
        except SparkleError as exc:
            log.error("%s", exc.message)  # what a person can mend needs no trace
        except Exception:  # a forked child must not return into the parent's code
            log.exception("worker failed")
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)

    def _tell_ready(self) -> None:
        os.write(self._ready_write, b".")

    def _stop_all(self) -> None:
        self.on_stop()
        for child in self._children:
            child.due = 0.0
        for stage in sorted({child.stage for child in self._children}):
            grace = _KILL_GRACE if stage else self.drain_seconds + _KILL_GRACE
            self._stop([child for child in self._children if child.stage == stage], grace)

    def _stop(self, children: list[_Child], grace: float) -> None:
        for child in children:
            _kill(child.pid, signal.SIGTERM)
        deadline = time.monotonic() + grace
        while any(c.pid for c in children) and time.monotonic() < deadline:
            for child in children:
                if child.pid and _ended(child.pid):
                    self.on_child_exit(child.pid)
                    child.pid = 0
            time.sleep(0.01)
        for child in children:
            if child.pid:
                log.error("%s (pid %d) did not stop in time; killing it", child.name, child.pid)
                _kill(child.pid, signal.SIGKILL)
                os.waitpid(child.pid, 0)
                child.pid = 0


def _spawn(argv: Sequence[str], env: Mapping[str, str], log_path: str | None) -> int:
    with ExitStack() as files:
        out = sys.stderr.fileno() if log_path is None else files.enter_context(open(log_path, "ab"))
        process = subprocess.Popen(
            list(argv),
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            start_new_session=True,  # a Ctrl-C on the terminal is ours to handle, in order
            preexec_fn=die_with_parent,
        )
    pid = process.pid
    process.returncode = 0  # the supervisor reaps it; keep Popen from waiting or warning
    return pid


def _kill(pid: int, sig: int) -> None:
    if pid:
        try:
            os.kill(pid, sig)
        except ProcessLookupError:
            return


def _ended(pid: int) -> bool:
    try:
        return os.waitpid(pid, os.WNOHANG)[0] == pid
    except ChildProcessError:
        return True
