"""Text files that are there either whole or as they were before, and the cache folder."""

import json
import os
from pathlib import Path
from typing import Any


def write_whole(path: Path, text: str) -> None:
    """Write a text file through a temporary name beside it; folders above it are made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(half_written(path), "w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(half_written(path), path)


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


def cache_folder(chosen: str | os.PathLike[str] | None = None) -> Path:
    """Where built-in corpora and scan results are kept: `chosen`, else the usual place."""
    return Path(chosen or os.environ.get("AVSSL_CACHE") or "~/.cache/avssl").expanduser()


def half_written(path: Path) -> Path:
    """Where a file is while it is being written."""
    return path.with_name(f".{path.name}.tmp")
