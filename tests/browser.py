"""A real browser for the tests of pages.

Needs Chromium, which plays the clips' H.264: found in PATH, or named by AVSSL_CHROMIUM.
"""

import importlib.util
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("AVSSL_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
NEEDS_BROWSER = pytest.mark.skipif(
    CHROMIUM is None or importlib.util.find_spec("playwright") is None,
    reason=f"needs playwright and one of {', '.join(NAMES)}",
)
QUIET = [
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update",
    "--autoplay-policy=no-user-gesture-required",
    # a beeping microphone and a camera that shows a clock
    "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]  # fmt: skip
PATIENCE = 30_000  # ms


@contextmanager
def open_browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as driver:
        running = driver.chromium.launch(executable_path=CHROMIUM, args=QUIET)
        yield running
        running.close()


@contextmanager
def visitors(browser: Any, url: str, *, ready: str) -> Iterator[Callable[[], Any]]:
    """What opens the page as a visitor of its own and waits until `ready` is there.

    In the end all requests must have stayed on the server, and no script failed.
    """
    contexts, asked, errors = [], [], []

    def visit() -> Any:
        contexts.append(browser.new_context(permissions=["microphone", "camera"]))
        page = contexts[-1].new_page()
        page.set_default_timeout(PATIENCE)
        page.on("request", lambda request: asked.append(request.url))
        page.on("pageerror", lambda error: errors.append(error))
        page.goto(url)
        page.wait_for_selector(ready)
        return page

    yield visit
    for context in contexts:
        context.close()
    kinds = ("data:", f"blob:{url}")
    elsewhere = {asked for asked in asked if not asked.startswith((url, *kinds))}
    assert asked and not elsewhere and not errors
