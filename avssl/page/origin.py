"""Who may ask: what another site makes a visitor's browser send to this server is refused.

A name that another site owns may lead to any address (DNS rebinding), and then its pages and ours
are one site to a browser. So only addresses and names that are surely this machine's are answered.
"""

import ipaddress
import socket
from email.message import Message
from urllib.parse import SplitResult, urlsplit

from avssl.page.refusal import Refusal


class Origins:
    """Checks requests to a server that listens at `host`."""

    def __init__(self, host: str) -> None:
        self._local = host == "localhost" or _is_loopback(host)
        self._names = {"localhost"}
        if not self._local:
            machine = socket.gethostname().lower()
            self._names |= {machine, f"{machine}.local", host.lower()}

    def check(self, headers: Message, path: str) -> None:
        """Raises Refusal when a request may come from another site."""
        host = headers.get("Host", "")
        name = (split(f"//{host}").hostname or "").rstrip(".")
        if name not in self._names and not self._is_address(name):
            where = "on this machine only" if self._local else "to its address or --host only"
            raise Refusal(403, f"This server answers {where}, not as '{name}'.")
        origin = headers.get("Origin")
        if origin is not None and split(origin).netloc != host:
            raise Refusal(403, "This server answers its own page only.")
        sender = headers.get("Sec-Fetch-Site", "none")  # none: the visitor typed the address
        if path.startswith("/api/") and sender not in ("same-origin", "none"):
            raise Refusal(403, "This server answers its own page only.")

    def _is_address(self, name: str) -> bool:
        if self._local:
            return _is_loopback(name)
        try:
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def split(url: str) -> SplitResult:
    """The parts of an address; Refusal where it has none."""
    try:
        return urlsplit(url)
    except ValueError:
        raise Refusal(400, "The address is malformed.") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
