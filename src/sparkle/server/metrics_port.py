"""A port that shows metrics and nothing else, for processes without a gateway."""

from __future__ import annotations

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sparkle.errors import ConfigurationError

_TEXT = "text/plain; version=0.0.4; charset=utf-8"


class MetricsPort:
    """Serves ``GET /metrics`` in a thread; a context manager.

    Args:
        host: Address to listen on.
        port: Port; 0 takes a free one.

    Raises:
        ConfigurationError: The address is taken or not ours.
    """

    def __init__(self, host: str, port: int) -> None:
        shown = self

        class Handler(BaseHTTPRequestHandler):
            timeout = 10.0  # a client that says nothing must not keep its thread

            def do_GET(self) -> None:
                """Answer with the latest figures."""
                found = self.path.partition("?")[0] == "/metrics"
                body = shown.content if found else b"not found\n"
                self.send_response(200 if found else 404)
                self.send_header("content-type", _TEXT)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, format: str, *args: Any) -> None:
                """Keep quiet: a scrape every few seconds is no news."""

        self.content = b""
        try:
            self._server = ThreadingHTTPServer((host, port), Handler)
        except OSError as exc:
            raise ConfigurationError(f"cannot listen on {host}:{port}: {exc.strerror or exc}") from None
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, name="metrics", daemon=True)

    @property
    def url(self) -> str:
        """Where the metrics are."""
        host, port = self._server.server_address[:2]
        return f"http://{host!s}:{port}/metrics"

    def show(self, content: bytes) -> None:
        """Answer with this from now on."""
        self.content = content

    def __enter__(self) -> MetricsPort:
        self._thread.start()
        return self

    def __exit__(self, *exc: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
