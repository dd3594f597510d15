"""The web server of a page: where it listens, and how many it listens to.

Python's own HTTP server is enough: a few routes, and no state between requests, so that there is
nothing two users could share.
"""

import contextlib
import socket
import sys
import threading
from http.server import ThreadingHTTPServer
from typing import Any

from avssl.errors import UserError
from avssl.page.origin import Origins
from avssl.page.request import Request
from avssl.page.site import Site

_ARRIVALS = 16  # uploads on the disk at the same time
_UPLOADS = 2  # read and answered at the same time; others wait
_CONNECTIONS = 128  # a browser has up to 6
_FULL = b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"


class PageServer(ThreadingHTTPServer):
    """Takes `host`:`port` (0: any free one) when it is made; `serve` answers with a Site.

    Raises:
        UserError: the address is not this machine's, or the port is taken.
    """

    daemon_threads = True
    request_queue_size = 64
    page: Site

    def __init__(self, *, host: str, port: int) -> None:
        self.arrivals = threading.BoundedSemaphore(_ARRIVALS)
        self.uploads = threading.BoundedSemaphore(_UPLOADS)
        self._connections = threading.BoundedSemaphore(_CONNECTIONS)
        self.origins = Origins(host)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), Request, bind_and_activate=False)
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

    def serve(self, page: Site) -> None:
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

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a connection in a thread of its own, unless there are too many."""
        if not self._connections.acquire(blocking=False):
            with contextlib.suppress(OSError):
                request.sendall(_FULL)
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread could be started
            self._connections.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """In that thread."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._connections.release()

    def handle_error(self, request: object, client_address: object) -> None:
        """Browsers close connections at will: only other errors are shown."""
        if not isinstance(sys.exc_info()[1], (ConnectionError, TimeoutError)):
            super().handle_error(request, client_address)  # type: ignore[arg-type]

    @property
    def url(self) -> str:
        """What to open in a browser."""
        host = str(self.server_address[0])
        return f"http://{f'[{host}]' if ':' in host else host}:{self.server_port}/"
