"""What an unfinished indexing has done so far, kept in portions.

Letters: N clips, D width.
"""

import json
import os
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from avssl.errors import UserError
from avssl.files import half_written
from avssl.retrieval.store import lines


class Parts:
    """Clips that an unfinished `index` has done: one file a portion, there whole or not at all.

    They belong to the generation that is being made; those of an earlier one are left-overs.
    """

    def __init__(self, folder: Path, generation: int) -> None:
        self.folder = folder / "parts" / str(generation)
        for old in (folder / "parts").glob("*"):
            if old != self.folder:
                shutil.rmtree(old)
        self.paths = sorted(self.folder.glob("*.npz"))

    def add(self, rows: Sequence[Mapping[str, Any]], vectors: Mapping[str, np.ndarray]) -> None:
        """Keep a portion: rows of clips and, for each modality, their vectors [N, D]."""
        path = self.folder / f"{len(self.paths):08d}.npz"
        path.parent.mkdir(parents=True, exist_ok=True)
        text = np.frombuffer(lines(rows).encode(), np.uint8)
        with open(half_written(path), "wb") as file:
            np.savez(file, rows=text, **vectors)  # type: ignore[arg-type]
            file.flush()
            os.fsync(file.fileno())
        os.replace(half_written(path), path)
        self.paths.append(path)

    def rows(self) -> Iterator[dict[str, Any]]:
        """The rows of all portions, in order."""
        for path in self.paths:
            for line in self._read(path, "rows").tobytes().splitlines():
                yield json.loads(line)

    def vectors(self, modality: str) -> Iterator[np.ndarray]:
        """The vectors [N, D] of each portion, in order."""
        for path in self.paths:
            yield self._read(path, modality)

    def _read(self, path: Path, name: str) -> np.ndarray:
        try:
            with np.load(path, allow_pickle=False) as part:
                found: np.ndarray = part[name]
        except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise UserError(
                f"{path} is damaged ({error}): delete the folder it lies in and give the command "
                "again"
            ) from None
        return found
