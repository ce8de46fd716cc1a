"""Does what a page says, as a person would: in one terminal, in an empty folder, block after block."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import monotonic
from types import TracebackType

import msgspec
from tests.docs.markdown_blocks import RUNNABLE, Block, blocks_of
from tests.docs.stand_ins import StandIns

_LISTENS = re.compile(r"listens on http://\S*:(\d+)")
_DOCUMENTED = re.compile(r"(?:127\.0\.0\.1|localhost):8000\b")
_START_SECONDS = 60.0
_BLOCK_SECONDS = 120.0
_STOP_SECONDS = 20.0
_STATE = ".terminal"
"""File in which the terminal's variables wait for the next block."""


class SnippetError(AssertionError):
    """A block did not do what its page says."""


class Reader:
    """One reading of one page.

    Args:
        folder: Empty folder to work in.
        root: The repository.
        local_model: Where a page configures no upstream, whether the local model answers (as it would for a person)
            or the scripted provider, which is quicker.
    """

    def __init__(self, folder: Path, root: Path, *, local_model: bool = True) -> None:
        self._folder = folder
        self._root = root
        self._local_model = local_model
        self._others = StandIns()
        self._server: subprocess.Popen[str] | None = None
        self._port: str | None = None
        self._printed = ""

    def __enter__(self) -> Reader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_server()
        self._others.__exit__(kind, exc, trace)

    def read(self, block: Block) -> None:
        """Run, write or compare one block, as its notes say.

        Raises:
            SnippetError: It did not do what the page says; the message names page and line.
        """
        notes = block.notes
        if "prints" in notes:
            self._compare(block, block.text, self._printed)
        elif block.skipped:
            self._check_skipped(block)
        elif "file" in notes:
            self._write(block, notes["file"])
        elif block.language in ("bash", "sh"):
            if notes.get("run") == "background":
                self._start_server(block)
            else:
                self._printed = self._bash(block, block.text, int(notes.get("exit", "0")))
        elif block.language == "python":
            script = self._folder / f"block_{block.line}.py"
            script.write_text(self._translated(block, block.text), "utf-8")
            self._printed = self._bash(block, f"python {script.name}", int(notes.get("exit", "0")))
        elif block.language == "console":
            self._console(block)
        elif block.language == "json":
            self._parse_json(block)
        elif block.language in RUNNABLE:
            raise SnippetError(
                f"{block.where}: a {block.language} block needs `file: NAME` or `run: no, REASON`"
            )

    # One kind of block each ----------------------------------------------------------------------------------

    def _write(self, block: Block, name: str) -> None:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self._translated(block, block.text), "utf-8")
        # A file that Sparkle reads must be one that Sparkle takes.
        if path.suffix == ".yaml" and path.stem.startswith("policy"):
            self._bash(block, f"sparkle policy check {name}", 0)
        elif path.suffix == ".yaml" and path.stem.startswith("sparkle"):
            self._bash(block, f"sparkle settings --config {name}", 0)
        elif path.suffix in (".yaml", ".yml"):
            msgspec.yaml.decode(path.read_bytes())

    def _console(self, block: Block) -> None:
        command, expected = "", list[str]()
        for line in [*block.text.splitlines(), "$ "]:
            if not line.startswith("$ "):
                expected.append(line)
                continue
            if command:
                printed = self._bash(block, command, int(block.notes.get("exit", "0")))
                if expected:
                    self._compare(block, "\n".join(expected), printed)
            command, expected = line.removeprefix("$ "), []

    def _check_skipped(self, block: Block) -> None:
        """What is not run must at least name habits that exist."""
        for target in re.findall(r"^make ([a-z-]+)", block.text, re.MULTILINE):
            done = subprocess.run(["make", "-n", target], cwd=self._root, capture_output=True, text=True)
            if done.returncode:
                raise SnippetError(f"{block.where}: there is no `make {target}`")

    def _parse_json(self, block: Block) -> None:
        try:
            msgspec.json.decode(block.text)
        except msgspec.DecodeError as exc:
            raise SnippetError(f"{block.where}: not JSON: {exc}") from None

    def _compare(self, block: Block, expected: str, printed: str) -> None:
        pattern = r"[\s\S]*?".join(re.escape(part) for part in expected.strip().split("..."))
        if not re.fullmatch(pattern, printed.strip()):
            raise SnippetError(f"{block.where}: the page shows\n{expected}\nbut it prints\n{printed}")

    # Processes -----------------------------------------------------------------------------------------------

    def _bash(self, block: Block, text: str, code: int) -> str:
        script = f"[ -f {_STATE} ] && . ./{_STATE}\n{self._translated(block, text)}\ndeclare -px > {_STATE}"
        process = subprocess.Popen(
            ["bash", "-eu", "-o", "pipefail", "-c", script],
            cwd=self._folder,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        try:
            out, err = process.communicate(timeout=_BLOCK_SECONDS)
        except subprocess.TimeoutExpired:
            _end_group(process)
            raise SnippetError(f"{block.where}: not done after {_BLOCK_SECONDS:.0f} s") from None
        if process.returncode != code:
            log = self._server_log()
            raise SnippetError(
                f"{block.where}: exit code {process.returncode}, expected {code}\n{text}\n{out}{err}{log}"
            )
        return self._as_documented(out)

    def _start_server(self, block: Block) -> None:
        self._stop_server()
        # exec: the shell becomes the server, so that one SIGTERM reaches it and nothing else.
        text = re.sub(
            r"^(sparkle serve)", r"exec \1", self._translated(block, block.text), flags=re.MULTILINE
        )
        script = f"[ -f {_STATE} ] && . ./{_STATE}\n{text}"
        with (self._folder / "server.log").open("ab") as log:
            server = subprocess.Popen(
                ["bash", "-eu", "-c", script],
                cwd=self._folder,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._server = server
        lines: queue.Queue[str | None] = queue.Queue(maxsize=1000)
        threading.Thread(target=_copy_lines, args=(server, lines), daemon=True).start()
        deadline = monotonic() + _START_SECONDS
        while True:
            try:
                line = lines.get(timeout=max(0.0, deadline - monotonic()))
            except queue.Empty:
                raise SnippetError(f"{block.where}: no server after {_START_SECONDS:.0f} s") from None
            if line is None:
                raise SnippetError(f"{block.where}: the server ended\n{self._server_log()}")
            if found := _LISTENS.search(line):
                self._port = found[1]
                return

    def _stop_server(self) -> None:
        server, self._server, self._port = self._server, None, None
        if server is None:
            return
        if server.poll() is None:
            server.terminate()
            try:
                server.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                _end_group(server)
        if server.stdout is not None:
            server.stdout.close()

    def _server_log(self) -> str:
        path = self._folder / "server.log"
        return "\n" + path.read_text("utf-8", "replace")[-2000:] if path.exists() else ""

    def _environment(self) -> Mapping[str, str]:
        tools = Path(sys.executable).parent
        upstream = {} if self._local_model else {"SPARKLE_PROVIDER__UPSTREAM": self._others.provider()}
        return {
            **upstream,
            "PATH": f"{tools}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self._folder),
            "LANG": "C.UTF-8",
            # The documented default is 8000; here every server takes a free port, and the pages' address is replaced.
            "SPARKLE_SERVER__PORT": "0",
            "SPARKLE_SERVER__DRAIN_SECONDS": "2",
            # Two threads of the model wait for each other when other tests hold a core; one gets on.
            "SPARKLE_PROVIDER__LOCAL_THREADS": "1",
        }

    # The page's addresses and ours ---------------------------------------------------------------------------

    def _translated(self, block: Block, text: str) -> str:
        text = self._others.translated(text)
        if _DOCUMENTED.search(text):
            if self._port is None:
                raise SnippetError(f"{block.where}: calls a server, but the page has started none")
            text = _DOCUMENTED.sub(f"127.0.0.1:{self._port}", text)
        return text

    def _as_documented(self, printed: str) -> str:
        if self._port is not None:
            printed = printed.replace(f"127.0.0.1:{self._port}", "127.0.0.1:8000")
        return printed


def read_page(blocks: Sequence[Block], folder: Path, root: Path, *, local_model: bool = True) -> None:
    """Follow blocks from top to bottom."""
    with Reader(folder, root, local_model=local_model) as reader:
        for block in blocks:
            reader.read(block)


def follow(page: Path, folder: Path, root: Path) -> None:
    """Do what a page says, if it says anything that can be done."""
    blocks = blocks_of(page)
    if any(block.language in RUNNABLE for block in blocks):
        # A translation shows the same calls: the local model, slow beside other tests, answers in one of the two.
        read_page(blocks, folder, root, local_model=not page.stem.endswith(".zh-CN"))


def _copy_lines(process: subprocess.Popen[str], lines: queue.Queue[str | None]) -> None:
    try:
        for line in process.stdout or ():
            if not lines.full():
                lines.put(line)
    except ValueError:
        pass  # closed while reading: the server has been stopped
    if not lines.full():
        lines.put(None)


def _end_group(process: subprocess.Popen[str]) -> None:
    """Kill a process that we started, with what it started; its group is its own."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()
