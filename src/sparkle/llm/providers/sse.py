"""Server-sent events from bytes that may be cut anywhere.

Follows the parsing rules of the WHATWG HTML standard, section "Interpreting an event stream", for the one field that
OpenAI-compatible APIs use: ``data``. Comments and other fields are skipped.
"""

from __future__ import annotations

MAX_EVENT_BYTES = 8 * 1024 * 1024


class EventTooLargeError(Exception):
    """One event is larger than the decoder accepts."""


class SSEDecoder:
    """Turns chunks of a body into the payloads of its events.

    Robust to any cutting, to LF, CRLF and CR line ends, a byte order mark, comments, several ``data`` lines in one
    event (joined by a newline) and a missing blank line at the end. Events with empty data are skipped, as the
    standard says.
    The work is linear in the input, however finely it is cut.
    """

    __slots__ = ("_data", "_limit", "_line", "_pending", "_skip_lf", "_start")

    def __init__(self, max_event_bytes: int = MAX_EVENT_BYTES) -> None:
        self._limit = max_event_bytes
        self._line = bytearray()  # the line that has not ended yet
        self._data: list[bytes] = []  # data lines of the event that has not ended yet
        self._pending = 0  # bytes in self._data
        self._skip_lf = False  # the last chunk ended in CR: an LF that follows belongs to it
        self._start = True

    def feed(self, chunk: bytes) -> list[bytes]:
        """Payloads of the events that ``chunk`` completes, in order.

        Raises:
            EventTooLargeError: An event, or a line, is larger than the bound.
        """
        # The common case, told by counting: whole events of one "data: " line each, ended by LF LF.
        if (
            chunk.startswith(b"data: ")
            and chunk.endswith(b"\n\n")
            and not (self._line or self._data or self._skip_lf)
            and b"\r" not in chunk
            and len(chunk) <= self._limit
        ):
            payloads = chunk[6:-2].split(b"\n\ndata: ")
            if chunk.count(b"\n") == 2 * len(payloads) and b"" not in payloads:
                self._start = False
                return payloads
        return self._feed_lines(chunk)

    def close(self) -> list[bytes]:
        """The payload of an event that the end of the stream completes; empty or one element."""
        self._skip_lf = False
        return self._feed_lines(b"\n\n")

    def _feed_lines(self, chunk: bytes) -> list[bytes]:
        if self._skip_lf and chunk:
            self._skip_lf = False
            chunk = chunk.removeprefix(b"\n")
        if b"\r" in chunk:
            self._skip_lf = chunk.endswith(b"\r")
            chunk = chunk.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        first, *rest = chunk.split(b"\n")
        self._line += first
        payloads: list[bytes] = []
        for line in rest:
            self._end_line(bytes(self._line), payloads)
            self._line[:] = line
        if len(self._line) + self._pending > self._limit:
            raise EventTooLargeError
        return payloads

    def _end_line(self, line: bytes, payloads: list[bytes]) -> None:
        if self._start:
            self._start = False
            line = line.removeprefix(b"\xef\xbb\xbf")
        if not line:
            payload = b"\n".join(self._data)
            self._data.clear()
            self._pending = 0
            if payload:
                payloads.append(payload)
        elif line.startswith(b"data:"):
            value = line[6:] if line.startswith(b"data: ") else line[5:]
            self._pending += len(value) + 1
            if self._pending > self._limit:
                raise EventTooLargeError
            self._data.append(value)
        elif line == b"data":
            self._pending += 1
            self._data.append(b"")
