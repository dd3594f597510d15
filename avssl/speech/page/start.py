"""`tools/lipread.py --serve`: serve the page until Ctrl-C."""

import signal
import sys
from collections.abc import Callable

from avssl.page.server import PageServer
from avssl.speech.page.answers import LipPage
from avssl.speech.readers import Readers


def serve(load: Callable[[], Readers], *, host: str, port: int) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        load: gives the models; called when the address is taken.

    Raises:
        UserError: no such model, or a port that is taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    server = PageServer(host=host, port=port)  # before anything that takes time
    print("loading ...", file=sys.stderr, flush=True)
    page = LipPage(load())
    print(f"{server.url} reads clips: {page.title} (Ctrl-C ends it)", flush=True)
    server.serve(page)
