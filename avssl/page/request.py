"""One request to a page: limits on what comes in, and ranges of media; a Site answers it.

The page loads all from this server; its policy forbids any other.
"""

from __future__ import annotations

import contextlib
import io
import json
import mimetypes
import re
import socket
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import parse_qs

from avssl.page.origin import split
from avssl.page.refusal import Refusal
from avssl.page.site import Answer, Body

if TYPE_CHECKING:
    from avssl.page.server import PageServer

_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_SHARED = ("/common.css", "/common.js")  # by all pages
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
_POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_IDLE = 30.0  # s without a byte, or from a request's first to its last line
_UPLOAD = 120.0  # s that an upload may take to arrive
_PATIENCE = 60.0  # s that an upload waits for its turn
_DRAIN = 5.0  # s that a refused upload may go on sending, so that its sender reads the reply
_PREFIX = "avssl-upload-"  # of folders in the system's one for temporary files
_BLOCK = 1 << 18


class _Incoming(io.RawIOBase):
    """What a connection sends, up to a time by which it must be there."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection, self._end = connection, 0.0

    def allow(self, seconds: float) -> None:
        """From now on."""
        self._end = time.monotonic() + seconds

    def readable(self) -> bool:
        """It is."""
        return True

    def readinto(self, buffer: Any) -> int:
        """Raises TimeoutError when the time is over."""
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._connection.settimeout(min(left, _IDLE))
        try:
            return self._connection.recv_into(buffer)
        finally:
            self._connection.settimeout(_IDLE)


class Request(BaseHTTPRequestHandler):
    """Answers the requests of one connection."""

    protocol_version = "HTTP/1.1"
    server_version, sys_version = "avssl", ""
    timeout = _IDLE
    server: PageServer

    def setup(self) -> None:
        """Read through what watches the time."""
        super().setup()
        self.rfile.close()
        self._incoming = _Incoming(self.connection)
        self.rfile = io.BufferedReader(self._incoming)

    def handle_one_request(self) -> None:
        """One of a connection's."""
        self._incoming.allow(_IDLE)
        super().handle_one_request()

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not printed."""

    def _answer(self, route) -> None:  # type: ignore[no-untyped-def]
        try:
            url = split(self.path)
            self.server.origins.check(self.headers, url.path)
            route(url.path, {name: values[-1] for name, values in parse_qs(url.query).items()})
        except Refusal as refusal:
            self.close_connection = True
            self._json({"error": str(refusal)}, HTTPStatus(refusal.status))
            self._drain()
        except (ConnectionError, TimeoutError):
            self.close_connection = True
        except Exception:  # a mistake of ours ends one request, not the server
            traceback.print_exc()
            self.close_connection = True
            self._json(
                {"error": "The server made a mistake; its window says which."},
                HTTPStatus.INTERNAL_SERVER_ERROR,
            )

    def _get(self, path: str, query: dict[str, str]) -> None:
        if path in _FILES or path in _SHARED:
            folder = self.server.page.folder if path in _FILES else Path(__file__).parent
            file = folder / _FILES.get(path, path.removeprefix("/"))
            self._send(Body(file.read_bytes(), _TYPES[file.suffix], keep=False))
        else:
            self._send(self.server.page.get(path, query))

    def _post(self, path: str, query: dict[str, str]) -> None:
        take = self.server.page.receiver(path, query)
        name = query.get("name", "the upload")[:120]
        size = self._length(name)
        with _turn(self.server.arrivals), tempfile.TemporaryDirectory(prefix=_PREFIX) as folder:
            ending = re.sub(r"[^.a-z0-9]", "", Path(name).suffix.lower())[:8]
            upload = Path(folder) / f"upload{ending}"
            self._receive(upload, size)
            with _turn(self.server.uploads):  # only now: who sends slowly does not take it
                answer = take(upload, name)
        self._send(answer)

    def _send(self, answer: Answer) -> None:
        if isinstance(answer, dict):
            self._json(answer)
        elif isinstance(answer, Body):
            self._bytes(answer.data, answer.kind, keep=answer.keep)
        else:
            self._file(answer)

    def _length(self, name: str) -> int:
        """Bytes of the body, within the limit, before any of it is read."""
        text = self.headers.get("Content-Length", "")
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise Refusal(411, "The upload does not say how long it is.")
        limit = self.server.page.longest_upload
        if int(text) > limit:
            raise Refusal(
                413,
                f"'{name}' has {int(text) / 1e6:.1f} MB; this page takes files up to "
                f"{limit / 1e6:g} MB.",
            )
        return int(text)

    def _receive(self, target: Path, size: int) -> None:
        self._incoming.allow(_UPLOAD)
        with open(target, "wb") as file:
            while size:
                block = self.rfile.read(min(size, _BLOCK))
                if not block:
                    raise ConnectionError("the upload broke off")
                file.write(block)
                size -= len(block)

    def _drain(self) -> None:
        """Let a refused upload's sender finish: browsers drop a reply that comes too early."""
        left = self.headers.get("Content-Length", "0")
        remaining = int(left) if left.isdigit() and len(left) < 16 else 0
        self._incoming.allow(_DRAIN)
        try:
            while remaining > 0:
                block = self.rfile.read1(min(remaining, _BLOCK))
                if not block:
                    return
                remaining -= len(block)
        except OSError:
            pass

    def _json(self, answer: object, status: HTTPStatus = HTTPStatus.OK) -> None:
        self._bytes(json.dumps(answer).encode(), "application/json", status=status)

    def _bytes(
        self, body: bytes, kind: str, *, status: HTTPStatus = HTTPStatus.OK, keep: bool = False
    ) -> None:
        self._head(status, kind, len(body), keep=keep)
        self.wfile.write(body)

    def _head(
        self,
        status: HTTPStatus,
        kind: str,
        length: int,
        *,
        keep: bool = False,
        more: dict[str, str] | None = None,
    ) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(length))
        self.send_header("Cache-Control", "private, max-age=600" if keep else "no-store")
        self.send_header("Content-Security-Policy", _POLICY)
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Cross-Origin-Resource-Policy", "same-origin")
        self.send_header("Referrer-Policy", "no-referrer")
        if self.close_connection:
            self.send_header("Connection", "close")
        for name, value in (more or {}).items():
            self.send_header(name, value)
        self.end_headers()

    def _file(self, file: BinaryIO) -> None:
        """Send a medium, or the range of it that a player asks for when it seeks."""
        kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
        with file:
            size = file.seek(0, 2)
            first, last, status = 0, size - 1, HTTPStatus.OK
            more = {"Accept-Ranges": "bytes"}
            asked = re.fullmatch(r"bytes=(\d{1,15})?-(\d{1,15})?", self.headers.get("Range", ""))
            if asked and (asked[1] or asked[2]):
                if asked[1]:
                    first, last = int(asked[1]), min(int(asked[2] or last), last)
                else:
                    first = max(0, size - int(asked[2]))
                if first > last:
                    raise Refusal(416, "The file is shorter than what was asked for.")
                status = HTTPStatus.PARTIAL_CONTENT
                more["Content-Range"] = f"bytes {first}-{last}/{size}"
            self._head(status, kind, last - first + 1, keep=True, more=more)
            file.seek(first)
            remaining = last - first + 1
            while remaining:
                block = file.read(min(remaining, _BLOCK))
                if not block:
                    self.close_connection = True
                    return
                self.wfile.write(block)
                remaining -= len(block)


@contextlib.contextmanager
def _turn(places: threading.Semaphore) -> Iterator[None]:
    if not places.acquire(timeout=_PATIENCE):
        raise Refusal(503, "The server is busy with other uploads: try again in a minute.")
    try:
        yield
    finally:
        places.release()
