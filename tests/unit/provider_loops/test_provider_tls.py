"""An upstream over TLS, with certificates made for the test."""

from __future__ import annotations

import asyncio
import shutil
import ssl
import subprocess
from pathlib import Path

import pytest
from tests.support.providers import request, started
from tests.support.upstream import ScriptedUpstream

from sparkle.errors import ProviderError

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="certificates are made with openssl")


def certificate(folder: Path, name: str, subject_alternative: str) -> tuple[ssl.SSLContext, Path]:
    """A server context with a self-signed certificate, and the certificate's file."""
    cert, key = folder / f"{name}.pem", folder / f"{name}.key"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-keyout", str(key), "-out", str(cert), "-subj", f"/CN={name}",
         "-addext", f"subjectAltName={subject_alternative}"],
        check=True,
        capture_output=True,
    )  # fmt: skip
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    return context, cert


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return certificate(tmp_path_factory.mktemp("tls"), "good", "IP:127.0.0.1")


@pytest.fixture(scope="module")
def other_host(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, Path]:
    return certificate(tmp_path_factory.mktemp("tls"), "other", "DNS:other.example")


async def test_calls_and_streams_go_over_one_encrypted_connection(
    good: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = good
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with ScriptedUpstream(tls=context) as up, started(up.url) as h:
        assert (await h.ask(filler="x" * 200_000)).status == 200
        up.stream(["a", "b"], times=1)
        assert len([payload async for payload in await h.router.stream(request())]) == 3
        assert up.connections == 1
        up.stream(["a", asyncio.Event()], times=1)
        async with await h.router.stream(request()) as stream:
            await anext(stream)
        await up.requests[2].closed.wait()


async def test_a_certificate_that_nobody_vouches_for_is_refused(good: tuple[ssl.SSLContext, Path]) -> None:
    async with ScriptedUpstream(tls=good[0]) as up, started(up.url, max_retries=0) as h:
        with pytest.raises(ProviderError, match="certificate not accepted"):
            await h.ask()
        assert up.requests == []


async def test_a_certificate_of_another_host_is_refused(
    other_host: tuple[ssl.SSLContext, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    context, trusted = other_host
    monkeypatch.setenv("SSL_CERT_FILE", str(trusted))
    async with ScriptedUpstream(tls=context) as up, started(up.url, max_retries=0) as h:
        with pytest.raises(ProviderError, match="certificate not accepted"):
            await h.ask()
        assert up.requests == []


async def test_a_server_that_speaks_no_tls_is_a_failed_connect() -> None:
    async def speak(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(speak, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with started(f"https://127.0.0.1:{port}/v1", max_retries=0) as h:
            with pytest.raises(ProviderError, match="cannot connect"):
                await h.ask()
