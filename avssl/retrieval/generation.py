"""The next generation of an index: the files of the one before with the clips done since.

Letters: N clips, D width.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from avssl.retrieval import store
from avssl.retrieval.fit import build_nearest
from avssl.retrieval.nearest import Nearest
from avssl.retrieval.parts import Parts


def write_generation(folder: Path, header: store.Header, parts: Parts) -> store.Header:
    """Write the files, then the header that names them; returns the header."""
    before, number = header, header.number
    header = dataclasses.replace(before, generation=before.generation + 1)
    rows = folder / header.name("clips.jsonl")
    old = folder / before.name("clips.jsonl") if number else None
    number += store.write_rows(rows, old, parts.rows())
    header = dataclasses.replace(header, number=number)
    files = [rows]
    for name, modality in header.modalities.items():
        path = folder / header.name(f"{name}.npy")
        files.append(path)
        store.write_vectors(
            path,
            _portions(folder, before, parts, name),
            number=number,
            width=modality.width,
            precision=header.precision,
        )
    modalities = {}
    for name, modality in header.modalities.items():
        recipe = build_nearest(
            store.open_vectors(folder, header, name),
            folder / header.name(f"{name}.faiss"),
            before=_nearest(folder, before, name),
            foreign=_foreign(folder, header, name),
            say=lambda line: print(line, file=sys.stderr, flush=True),
        )
        modalities[name] = dataclasses.replace(modality, nearest=recipe)
        if recipe["type"] != "exact":
            files.append(folder / header.name(f"{name}.faiss"))
    header = dataclasses.replace(
        header, modalities=modalities, files={path.name: store.describe(path) for path in files}
    )
    store.write_header(folder, header)
    return header


def _portions(folder: Path, before: store.Header, parts: Parts, name: str) -> Iterator[np.ndarray]:
    """Vectors [N, D] of the index as it was, then those of the parts."""
    if before.number:
        old = store.open_vectors(folder, before, name)
        for first in range(0, len(old), 1 << 14):
            yield old[first : first + (1 << 14)]
    yield from parts.vectors(name)


def _nearest(folder: Path, header: store.Header, name: str) -> Nearest | None:
    if not header.number:
        return None
    vectors = store.open_vectors(folder, header, name)
    file = folder / header.name(f"{name}.faiss")
    return Nearest(vectors, header.modalities[name].nearest, file)


def _foreign(folder: Path, header: store.Header, name: str) -> np.ndarray | None:
    """The other modality's vectors, if they lie in the same space."""
    for other, modality in header.modalities.items():
        if other != name and modality.width == header.modalities[name].width:
            return store.open_vectors(folder, header, other)
    return None
