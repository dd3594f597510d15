"""The web server of the search page: routes, limits on what comes in, and ranges of media.

Python's own HTTP server is enough: a few routes, and no state between requests, so that there is
nothing two users could share. The page loads all from this server; its policy forbids any other.
"""

import ipaddress
import json
import mimetypes
import re
import socket
import sys
import tempfile
import threading
import time
import traceback
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import SplitResult, parse_qs, urlsplit

from avssl.errors import UserError
from avssl.retrieval.page.answers import Page, Refusal

_FILES = {"/": "page.html", "/page.css": "page.css", "/page.js": "page.js"}
_TYPES = {".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript"}
_POLICY = (
    "default-src 'self'; img-src 'self' data:; media-src 'self' blob:; style-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_IDLE = 30.0  # s without a byte after which a connection is closed
_UPLOADS = 4  # read and searched with at the same time; others wait
_PATIENCE = 60.0  # s that an upload waits for its turn
_DRAIN = 5.0  # s that a refused upload may go on sending, so that its sender reads the reply
_BLOCK = 1 << 18


class PageServer(ThreadingHTTPServer):
    """Takes `host`:`port` (0: any free one) when it is made; `serve` answers with a Page.

    Raises:
        UserError: the address is not this machine's, or the port is taken.
    """

    daemon_threads = True
    request_queue_size = 64
    page: Page

    def __init__(self, *, host: str, port: int) -> None:
        self.uploads = threading.BoundedSemaphore(_UPLOADS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.local = _is_loopback(host)
        super().__init__((host, port), _Request, bind_and_activate=False)
        try:
            self.server_bind()
            self.server_activate()
        except (OSError, OverflowError) as error:
            self.server_close()
            reason = getattr(error, "strerror", None) or error
            raise UserError(
                f"the page cannot be served at {host}, port {port} ({reason}): "
                "give another --port or --host"
            ) from None

    def serve(self, page: Page) -> None:
        """Answer requests until `shutdown`, or an exception such as Ctrl-C."""
        self.page = page
        try:
            self.serve_forever()
        finally:
            self.server_close()

    def server_bind(self) -> None:
        """Bind without asking the network for the host's full name, as the base class does."""
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.socket.bind(self.server_address)
        self.server_address = self.socket.getsockname()
        self.server_name, self.server_port = str(self.server_address[0]), self.server_address[1]

    def handle_error(self, request: object, client_address: object) -> None:
        """Browsers close connections at will: only other errors are shown."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """What to open in a browser."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"


class _Request(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version, sys_version = "avssl", ""
    timeout = _IDLE
    server: PageServer

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *arguments: object) -> None:
        """Requests are not printed."""

    def _answer(self, route) -> None:  # type: ignore[no-untyped-def]
        try:
            self._same_site()
            url = _split(self.path)
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

    def _same_site(self) -> None:
        """Refuse what another site makes a visitor's browser send to this machine."""
        host = self.headers.get("Host", "")
        name = _split(f"//{host}").hostname or ""
        if self.server.local and name != "localhost" and not _is_loopback(name):
            raise Refusal(403, f"This server answers on this machine only, not as '{name}'.")
        origin = self.headers.get("Origin")
        if origin is not None and _split(origin).netloc != host:
            raise Refusal(403, "This server answers its own page only.")

    def _get(self, path: str, query: dict[str, str]) -> None:
        kind, _, number = path.removeprefix("/api/").partition("/")
        if path in _FILES:
            file = Path(__file__).with_name(_FILES[path])
            self._bytes(file.read_bytes(), _TYPES[file.suffix])
        elif path == "/api/about":
            self._json(self.server.page.about())
        elif path == "/api/search":
            self._json(self.server.page.search_clip(_number(query.get("clip", "")), by=_by(query)))
        elif path.startswith("/api/") and kind == "media":
            self._file(self.server.page.media(_number(number)))
        elif path.startswith("/api/") and kind in ("spectrogram", "poster"):
            picture = self.server.page.picture(kind, _number(number))
            self._bytes(picture, "image/png" if kind == "spectrogram" else "image/jpeg", keep=True)
        else:
            raise Refusal(404, "There is no such page.")

    def _post(self, path: str, query: dict[str, str]) -> None:
        if path != "/api/search":
            raise Refusal(404, "There is no such page.")
        name, by = query.get("name", "the upload")[:120], _by(query)
        size = self._length(name)
        if not self.server.uploads.acquire(timeout=_PATIENCE):
            raise Refusal(503, "The server is busy with other uploads: try again in a minute.")
        try:
            with tempfile.TemporaryDirectory(prefix="avssl-upload-") as folder:
                ending = re.sub(r"[^.a-z0-9]", "", Path(name).suffix.lower())[:8]
                upload = Path(folder) / f"upload{ending}"
                self._receive(upload, size)
                self._json(self.server.page.search_upload(upload, name=name, by=by))
        finally:
            self.server.uploads.release()

    def _length(self, name: str) -> int:
        """Bytes of the body, within the limit, before any of it is read."""
        text = self.headers.get("Content-Length", "")
        if not text.isascii() or not text.isdigit() or len(text) > 15:
            raise Refusal(411, "The upload does not say how long it is.")
        limit = self.server.page.limits.upload
        if int(text) > limit:
            raise Refusal(
                413,
                f"'{name}' has {int(text) / 1e6:.1f} MB; this page takes files up to "
                f"{limit / 1e6:g} MB.",
            )
        return int(text)

    def _receive(self, target: Path, size: int) -> None:
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
        end = time.monotonic() + _DRAIN
        try:
            while remaining > 0 and time.monotonic() < end:
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

    def _file(self, path: Path) -> None:
        """Send a medium, or the range of it that a player asks for when it seeks."""
        kind = mimetypes.guess_type(path.name)[0] or "application/octet-stream"
        try:
            file = open(path, "rb")
        except OSError:
            raise Refusal(404, f"{path.name} is not there any more.") from None
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


def _split(url: str) -> SplitResult:
    try:
        return urlsplit(url)
    except ValueError:
        raise Refusal(400, "The address is malformed.") from None


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Refusal(404, "The index has no such clip.")
    return int(text)


def _by(query: dict[str, str]) -> str:
    by = query.get("by", "audio")
    if by not in ("audio", "video"):
        raise Refusal(400, "Searching is by audio or by video.")
    return by


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
