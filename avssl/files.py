"""Text files that are there either whole or as they were before, and the cache folder."""

import contextlib
import fcntl
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from avssl.errors import UserError


def write_whole(path: Path, text: str) -> None:
    """Write a text file through a temporary name beside it; folders above it are made.

    Raises OSError that names the file, also where the disk is full.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        with open(half_written(path), "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(half_written(path), path)
    except OSError as error:
        raise OSError(error.errno, error.strerror, os.fspath(path)) from None


def metrics_rows(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl (objects with `stage` and `step`); broken ones are left out."""
    if not path.is_file():
        return []
    found = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            row = json.loads(line)
            if isinstance(row["step"], int) and isinstance(row["stage"], str):
                found.append(row)
        except (ValueError, KeyError, TypeError):
            continue
    return found


@contextlib.contextmanager
def locked(folder: Path, busy: str) -> Iterator[None]:
    """Keep other processes out of a folder that is there.

    Raises UserError with the sentence `busy` when another one is in it.
    """
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(busy) from None
        yield
    finally:
        os.close(descriptor)


def cache_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Where built-in corpora and scan results are kept: `chosen`, else the usual place."""
    return Path(chosen or os.environ.get("AVSSL_CACHE") or "~/.cache/avssl").expanduser()


def half_written(path: Path) -> Path:
    """Where a file is while it is being written."""
    return path.with_name(f".{path.name}.tmp")
