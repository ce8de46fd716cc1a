"""The connection to a shared store: its address, its login, and what else may answer there."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from tests.support.valkey import ValkeyProcess, running_valkey

from sparkle.clock import SystemClock
from sparkle.errors import ConfigurationError, StoreUnavailableError
from sparkle.llm.quota.ops import Batch, Charge, Granted, Reserve
from sparkle.llm.quota.resp import Address, Connection, ReplyError
from sparkle.llm.quota.valkey_store import ValkeyStore

pytest_plugins = ["tests.support.quota_fixtures"]

Serve = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]
RESERVE = Batch("me", 9_000, (Reserve("me-1", (Charge("k", 0, 100, 0),), ((7, 0), (0, 0), (1, 0)), 0, 0),))


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("redis://store", Address(host="store")),
        ("valkey://store:7000/3", Address(host="store", port=7000, database=3)),
        ("rediss://me:p%40ss@store", Address(host="store", tls=True, username="me", password="p@ss")),
        ("redis://:pass@[::1]:1/", Address(host="::1", port=1, password="pass")),
        (
            "valkeys://s/2?ssl_ca_certs=/etc/ca.pem",
            Address(host="s", tls=True, database=2, ca_file="/etc/ca.pem"),
        ),
        ("unix:///run/valkey.sock?db=4", Address(host="", path="/run/valkey.sock", database=4)),
        ("unix://:pass@/run/a%20b.sock", Address(host="", path="/run/a b.sock", password="pass")),
    ],
)
def test_an_address_is_read_as_redis_clients_read_it(url: str, address: Address) -> None:
    assert Address.parse(url) == address


@pytest.mark.parametrize(
    "url",
    [
        "",
        "redis",
        "redis:///",
        "http://h",
        "redis://h/x",
        "redis://h/-1",
        "redis://h:99999",
        "redis://h?timeout=3",
        "redis://h?db",
        "unix://",
    ],
)
def test_an_address_that_cannot_be_read_is_refused(url: str) -> None:
    with pytest.raises(ConfigurationError):
        Address.parse(url)


def test_a_password_does_not_show() -> None:
    assert "geheim" not in repr(Address.parse("redis://geheim:geheim@host"))


async def test_a_password_and_a_database_are_used() -> None:
    with running_valkey() as server:
        plain = Connection(Address.parse(server.url))
        await plain.connect()
        await plain.ask(b"CONFIG", b"SET", b"requirepass", b"geheim")
        await plain.close()
        path = str(server.socket)
        with pytest.raises(StoreUnavailableError) as refused:
            await ValkeyStore(f"unix://:wrong@{path}", clock=SystemClock()).start()
        assert refused.value.details == {"cause": "WRONGPASS"}
        store = ValkeyStore(f"unix://:geheim@{path}?db=5", clock=SystemClock())
        await store.start()
        assert isinstance((await store.apply(RESERVE))[0], Granted)
        await store.close()
        known = Connection(Address.parse(f"unix://default:geheim@{path}?db=5"))
        await known.connect()
        assert await known.ask(b"EXISTS", b"{sparkle:quota}:m:k") == b"1"
        with pytest.raises(ReplyError):
            await known.ask(b"NONSENSE")
        await known.close()


@asynccontextmanager
async def listening(serve: Serve, tls: ssl.SSLContext | None = None) -> AsyncGenerator[int]:
    """A TCP server on a free port of this machine."""
    tasks: set[asyncio.Task[None]] = set()

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.add(task)
        try:
            await serve(reader, writer)
        except (OSError, EOFError, asyncio.CancelledError):
            # The test is over; start_server would report a cancelled task as a failure.
            return
        finally:
            writer.transport.abort()
            tasks.discard(task)

    server = await asyncio.start_server(connected, "127.0.0.1", 0, ssl=tls)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tuple(tasks):
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def proxy_to(valkey: ValkeyProcess) -> Serve:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            writer.write(data)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        inner_reader, inner_writer = await asyncio.open_unix_connection(str(valkey.socket))
        try:
            await asyncio.gather(pump(reader, inner_writer), pump(inner_reader, writer))
        finally:
            inner_writer.transport.abort()

    return serve


def answering(line: bytes) -> Serve:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        writer.write(line)
        if line:
            await reader.read()

    return serve


async def test_a_cluster_node_that_sends_us_elsewhere_is_followed(quota_valkey: ValkeyProcess) -> None:
    async with (
        listening(proxy_to(quota_valkey)) as right,
        listening(answering(b"-MOVED 7 127.0.0.1:%d\r\n" % right)) as wrong,
    ):
        store = ValkeyStore(f"redis://127.0.0.1:{wrong}", clock=SystemClock(), prefix="{moved}")
        with pytest.raises(StoreUnavailableError):
            await store.apply(RESERVE)
        assert isinstance((await store.apply(RESERVE))[0], Granted)
        await store.close()


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"*1\r\n$1\r\nx\r\n",
        b"$-1\r\n",
        b"$99\r\nshort",
        b"$2\r\nxx\r\n",
        b"-LOADING wait\r\n",
        b"\x00\x00\r\n",
    ],
)
async def test_whatever_else_answers_there_is_no_store(answer: bytes) -> None:
    async with listening(answering(answer)) as port:
        store = ValkeyStore(f"redis://127.0.0.1:{port}", clock=SystemClock(), timeout=0.2)
        with pytest.raises(StoreUnavailableError):
            await store.apply(RESERVE)
        assert not store._connection.connected  # pyright: ignore[reportPrivateUsage]
        await store.close()


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A certificate for 127.0.0.1 that signs itself, with its key in one file."""
    tool = shutil.which("openssl")
    if tool is None:
        pytest.skip("needs the openssl command")
    file, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subprocess.run(
        [
            *(tool, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=store"),
            *("-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(file)),
        ],
        check=True,
        capture_output=True,
    )
    both = tmp_path / "both.pem"
    both.write_text(key.read_text() + file.read_text())
    return both


async def test_tls_is_spoken_and_the_certificate_checked(
    quota_valkey: ValkeyProcess, certificate: Path
) -> None:
    tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    tls.load_cert_chain(certificate)
    async with listening(proxy_to(quota_valkey), tls) as port:
        trusting = f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}"
        store = ValkeyStore(trusting, clock=SystemClock(), prefix="{tls}", timeout=5)
        assert isinstance((await store.apply(RESERVE))[0], Granted)
        await store.close()
        doubting = ValkeyStore(f"rediss://127.0.0.1:{port}", clock=SystemClock(), timeout=5)
        with pytest.raises(StoreUnavailableError) as refused:
            await doubting.start()
        assert refused.value.details == {"cause": "SSLCertVerificationError"}
        await doubting.close()
