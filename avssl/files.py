"""Text files that are there either whole or as they were before."""

import os
from pathlib import Path


def write_whole(path: Path, text: str) -> None:
    """Write a text file through a temporary name beside it; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(half_written(path), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half_written(path), path)


def half_written(path: Path) -> Path:
    """Where a file is while it is being written."""
    return path.with_name(f".{path.name}.tmp")
