"""What a server shows: the three files of a page, and answers to what that page asks."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Protocol


@dataclass(frozen=True)
class Body:
    """An answer that is neither JSON nor a medium."""

    data: bytes
    kind: str  # such as image/png
    keep: bool = True  # browsers may keep it for some minutes


Answer = dict[str, Any] | Body | BinaryIO  # JSON, a body, or an open medium, sent in ranges


class Site(Protocol):
    """Answers requests; its methods are called from several threads, and raise Refusal."""

    @property
    def folder(self) -> Path:
        """Where page.html, page.css and page.js are."""

    @property
    def longest_upload(self) -> int:
        """Bytes."""

    def get(self, path: str, query: dict[str, str]) -> Answer:
        """The answer to a GET of anything but the three files."""

    def receiver(self, path: str, query: dict[str, str]) -> Callable[[Path, str], Answer]:
        """What takes an upload (its file and its name) to a path; refuses before it is sent."""
