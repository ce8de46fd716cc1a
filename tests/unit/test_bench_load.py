"""What the load sends and how it is measured."""

from __future__ import annotations

import asyncio
import http.server
import os
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import pytest
from bench import machine, prompts, servers, stream_client, systems
from bench.errors import BenchError
from bench.patience import Patience
from bench.profile_view import LOOP, common_prefix, in_loop, room, sampled
from bench.profile_worker import Function, Recording, Stack
from bench.servers import Spec


def test_texts_are_the_same_in_every_run_and_none_comes_twice() -> None:
    made = prompts.texts()
    assert made == prompts.texts()
    assert len(set(made)) == 400


def test_texts_are_between_100_and_600_characters_in_both_languages() -> None:
    made = prompts.texts()
    assert all(prompts.SHORTEST <= len(text) <= prompts.LONGEST for text in made)
    chinese = [text for text in made if not text.isascii()]
    assert len(chinese) == len(made) // 2


def test_a_serial_number_makes_every_body_another_one_of_the_same_length() -> None:
    body = prompts.varied(count=4)[1]
    first, second = body.numbered(1), body.numbered(99_999_999)
    assert first != second
    assert len(first) == len(second)
    decoded: Any = msgspec.json.decode(second)
    assert decoded["messages"][1]["content"].endswith("(#99999999)")


def test_the_constant_body_is_constant() -> None:
    (body,) = prompts.constant()
    assert body.numbered(1) == body.numbered(2)
    msgspec.json.decode(body.numbered(1))


@pytest.mark.parametrize("bodies", [prompts.varied(count=8, stream=True), prompts.constant()])
def test_bodies_survive_their_file(bodies: list[prompts.Body], tmp_path: Path) -> None:
    assert prompts.read(prompts.write(bodies, tmp_path / "p.txt")) == bodies


def test_own_memory_and_cpu_time_can_be_read() -> None:
    family = machine.tree(os.getpid())
    assert family[0] == os.getpid()
    read = machine.memory([os.getpid()])
    assert read.rss_mb >= read.pss_mb > 1
    before = machine.cpu_seconds([os.getpid()])
    assert before[os.getpid()] > 0
    assert machine.cpu_since(before) >= 0
    assert machine.busy_seconds() > 0


def test_a_process_that_is_gone_costs_nothing() -> None:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    assert machine.memory([done.pid]) == machine.Memory(0, 0, 0)
    assert machine.cpu_seconds([done.pid]) == {}
    assert machine.cpu_since({done.pid: 1.0}) == 0


SERVER = """
import http.server, sys
class H(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(int(sys.argv[2])); self.send_header("Content-Length", "2"); self.end_headers()
        self.wfile.write(b"{}")
    def log_message(self, *a): pass
print("serving", flush=True)
http.server.HTTPServer(("127.0.0.1", int(sys.argv[1])), H).serve_forever()
"""


def test_a_server_is_handed_over_when_it_answers_and_is_gone_afterwards(tmp_path: Path) -> None:
    port = servers.free_port()
    spec = Spec("a server", (sys.executable, "-c", SERVER, str(port), "200"), port)
    with servers.running(spec, tmp_path, b"{}") as server:
        assert server.cold_start > 0
        assert servers.ask(port, b"{}")[0] == 200
        pids = server.pids()
    assert pids
    assert not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_a_server_that_ends_at_once_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    spec = Spec(
        "a server", (sys.executable, "-c", "print('no licence'); raise SystemExit(3)"), servers.free_port()
    )
    with (
        pytest.raises(BenchError, match=r"(?s)ended with 3.*no licence"),
        servers.running(spec, tmp_path, b"{}"),
    ):
        pass


class Refusing(http.server.BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        self.send_error(418)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def test_a_server_that_only_refuses_is_an_error_that_says_how(tmp_path: Path) -> None:
    with http.server.HTTPServer(("127.0.0.1", 0), Refusing) as refusing:
        threading.Thread(target=refusing.serve_forever, args=(0.01,), daemon=True).start()
        idle = (sys.executable, "-c", "import signal; signal.pause()")
        spec = Spec("a server", idle, refusing.server_port, start_seconds=0.3)
        with pytest.raises(BenchError, match="418"), servers.running(spec, tmp_path, b"{}"):
            pass
        refusing.shutdown()


def test_a_missing_tool_is_an_error_that_names_its_package() -> None:
    with pytest.raises(BenchError, match="Debian package example-package"):
        servers.need_tool("no-such-program-here", "example-package")


@pytest.mark.parametrize(
    ("layers", "says"),
    [
        (systems.LAYERS, "all layers on"),
        ((), "all layers off"),
        (("quota",), "only quota"),
        (("output", "input"), "only input and output"),
    ],
)
def test_layers_are_described_in_the_order_of_a_request(layers: tuple[str, ...], says: str) -> None:
    assert systems.describe_layers(layers) == says


def test_layers_that_are_off_are_off_in_policy_and_settings(tmp_path: Path) -> None:
    bench = systems.Bench(tmp_path, "http://127.0.0.1:1/v1")
    argv, port, env = systems.sparkle_command(bench, ("input",), 2, program=("sparkle",))
    policy: Any = msgspec.yaml.decode(Path(argv[argv.index("--policy") + 1]).read_bytes())
    assert policy["output"]["rules"] == {"*": "off"}
    assert policy["input"] == {}
    assert env == {"SPARKLE_QUOTA__TOKENS_PER_DAY": "0", "SPARKLE_MONITORING__AUDIT": "false"}
    assert str(port) in argv


HEAD = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"


def event(text: str) -> bytes:
    data = b"data: " + msgspec.json.encode({"choices": [{"delta": {"content": text}}]}) + b"\n\n"
    return b"%x\r\n" % len(data) + data + b"\r\n"


TAIL = b"e\r\ndata: [DONE]\n\n\r\n0\r\n\r\n"


def test_the_text_of_a_chunked_stream_is_put_together_again() -> None:
    assert stream_client.text_of(HEAD + event("你") + event(" there") + TAIL) == "你 there"


async def serve_pieces(pieces: list[bytes], read: asyncio.Event) -> tuple[asyncio.Server, str]:
    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        for piece in pieces:
            writer.write(piece)
            await writer.drain()
        await read.wait()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    sock: socket.socket = server.sockets[0]
    return server, f"http://127.0.0.1:{sock.getsockname()[1]}/v1/chat/completions"


async def test_the_streaming_client_counts_pieces_and_reads_the_text() -> None:
    end = asyncio.Event()
    server, url = await serve_pieces([HEAD + event("a") + event("b") + event("c") + TAIL], end)
    result = await stream_client.measure(url, lambda n: b"{}", connections=1, requests=1, stagger=0, key="k")
    end.set()
    server.close()
    assert (result.answers, result.errors, result.texts) == (1, 0, ["abc"])
    assert result.pieces_min == 3


async def test_a_stream_that_breaks_off_is_an_error() -> None:
    end = asyncio.Event()
    end.set()
    server, url = await serve_pieces([HEAD + event("a")], end)
    result = await stream_client.measure(url, lambda n: b"{}", connections=1, requests=2, stagger=0, key="k")
    server.close()
    assert (result.answers, result.errors) == (0, 2)


def test_percentiles_are_values_that_occurred() -> None:
    values = [float(n) for n in range(1, 101)]
    assert [stream_client.percentile(values, p) for p in (50, 95, 99, 100)] == [50, 95, 99, 100]
    assert stream_client.percentile([7.0], 50) == 7
    assert stream_client.percentile([], 50) == 0


class Clocks:
    """A machine whose others are busy for a while, without anybody sleeping."""

    def __init__(self, busy_seconds: float) -> None:
        self.now = 0.0
        self.busy_until = busy_seconds

    def busy(self) -> float:
        return min(self.now, self.busy_until) * 1000

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def patient(seconds: float, clocks: Clocks) -> Patience:
    patience = Patience(seconds, clocks.busy, lambda: clocks.now, clocks.sleep)
    patience.begin()
    return patience


def test_patience_ends_when_the_machine_is_quiet() -> None:
    clocks = Clocks(busy_seconds=3.0)
    patience = patient(60, clocks)
    patience.wait()
    assert 3 < clocks.now < 4
    assert not patience.spent()


def test_patience_has_an_end_on_a_machine_that_is_never_quiet() -> None:
    clocks = Clocks(busy_seconds=1e9)
    patience = patient(5, clocks)
    patience.wait()
    patience.wait()
    assert 5 <= clocks.now < 6
    assert patience.spent()


def test_every_run_has_its_own_patience() -> None:
    clocks = Clocks(busy_seconds=1e9)
    patience = patient(5, clocks)
    patience.wait()
    patience.begin()
    assert not patience.spent()


def test_no_patience_never_waits() -> None:
    clocks = Clocks(busy_seconds=1e9)
    patient(0, clocks).wait()
    assert clocks.now == 0


ROOT = str(Path(__file__).parents[2])
RUN = Function("/usr/lib/python3/asyncio/runners.py", 1, "run")
HANDLE = Function(f"{ROOT}/src/sparkle/server/chat.py", 1, "handle")
CHECK = Function(f"{ROOT}/src/sparkle/llm/safety/guard.py", 1, "check")
POST = Function("/x/site-packages/aiohttp/client.py", 1, "post")


@pytest.mark.parametrize(
    ("file", "name"),
    [
        (CHECK.file, "1 input guard"),
        (HANDLE.file, "gateway (server/)"),
        (f"{ROOT}/src/sparkle/llm/requests.py", "wrapper (llm/*.py)"),
        (f"{ROOT}/src/sparkle/clock.py", "sparkle/*.py"),
        (POST.file, "aiohttp"),
        ("<string>", "built in"),
    ],
)
def test_a_file_belongs_to_a_room(file: str, name: str) -> None:
    assert room(file) == name


def test_time_before_a_callback_began_belongs_to_the_event_loop() -> None:
    assert in_loop(Stack(1, 1, True, (0, 1)), base=1)
    assert in_loop(Stack(1, 1, False, (0,)), base=1)
    assert not in_loop(Stack(1, 1, False, (0, 1)), base=1)
    assert not in_loop(Stack(1, 1, True, (0, 1, 2)), base=1)


def test_the_stacks_common_bottom_is_found() -> None:
    assert common_prefix([(0, 1, 2), (0, 1), (0, 1, 3)]) == 2
    assert common_prefix([]) == 0


def test_a_profile_says_what_a_request_costs_in_each_room() -> None:
    stacks = (
        Stack(20, 5, False, (0, 1)),  # the gateway's own code
        Stack(30, 5, False, (0, 1, 2)),  # the guard
        Stack(40, 5, False, (0, 1, 3)),  # a library on the gateway's behalf
        Stack(10, 5, False, (0,)),  # the loop
    )
    recording = Recording(1.0, 0.0, (0, 0, 0), (RUN, HANDLE, CHECK, POST), stacks)
    rooms = {row[0]: row[1:] for row in sampled(recording, requests=1000, top=10)[0].rows}
    assert rooms["gateway (server/)"] == ("600.0", "60.0%", "200.0", "20.0%")
    assert rooms["1 input guard"] == ("300.0", "30.0%", "300.0", "30.0%")
    assert rooms["aiohttp"] == ("0.0", "0.0%", "400.0", "40.0%")
    assert rooms[LOOP] == ("100.0", "10.0%", "100.0", "10.0%")
