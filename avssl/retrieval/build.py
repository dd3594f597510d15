"""Indexing: the clips of a source go through a model's encoders into an index folder.

What is done is kept in portions, so that a killed run goes on where it was; the index itself
changes only when all is there.

Letters: B batch, N clips, D width.
"""

from __future__ import annotations

import dataclasses
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from avssl.data.dataset import ClipDataset
from avssl.data.length_config import REAL
from avssl.data.loader import Loader
from avssl.data.manifest import Clip, Manifest
from avssl.data.scan import ProgressLine
from avssl.data.source import open_source
from avssl.errors import UserError
from avssl.retrieval import store
from avssl.retrieval.generation import write_generation
from avssl.retrieval.memory import allow
from avssl.retrieval.nearest import build_memory
from avssl.retrieval.parts import Parts
from avssl.retrieval.search import same_model
from avssl.retrieval.towers import WORDS, tower_of, towers_of

if TYPE_CHECKING:
    from avssl.data.config import DataConfig
    from avssl.encoders.encoder import Encoder
    from avssl.encoders.load import Encoders

Key = tuple[int, str, float | None, float | None]  # source, path, start, end
_BATCH = 32  # clips encoded at a time
_PER_CLIP = 1000  # bytes of its row and key while clips are added
_KEEP_EVERY = 5.0  # s between portions: what a killed run has to do again at most


@dataclass(frozen=True)
class Indexed:
    """What `index_clips` did. unreadable, left_out: (path, reason) of clips that are not in it."""

    added: int
    already: int
    number: int  # of clips in the index now
    unreadable: list[tuple[str, str]]
    left_out: list[tuple[str, str]]


def index_clips(
    source: str,
    *,
    run: Path,
    folder: Path,
    modalities: Sequence[str] | None = None,
    split: str | None = None,
    precision: str = "float32",
    memory: int,
    workers: int = 1,
    device: str = "cpu",
    keep_every: float = _KEEP_EVERY,
) -> Indexed:
    """Add the clips of a source to an index folder, which is made if need be.

    Clips that are in it (same source, path, start and end) are skipped; so are clips that cannot
    be read, which are tried again next time.

    Args:
        source: corpus:NAME, a folder of media or pictures, tar shards, or a manifest.
        run: run folder, exported folder or checkpoint, as for `avssl.load`.
        modalities: what clips shall be found by, "audio" or "video"; a clip needs all of them. By
            default what the index is of; of a new one, what the model reads and some clip has.
        split: train, val or test only.
        precision: of stored vectors: float32, or float16 for half the space.
        memory: bytes that building and searching may take.
        workers: processes that read clips.

    Raises:
        UserError: no usable clip, an index of another model, modalities or precision, or too large
            for the memory.
    """
    import avssl

    encoders = avssl.load(run, device=device)
    for name in modalities or ():
        tower_of(encoders, name)
    with store.locked(folder):
        wanted = modalities or _held(folder) or _streams(encoders, source, split, workers)
        towers = {name: tower_of(encoders, name) for name in wanted}
        models = {name: encoders[tower] for name, tower in towers.items()}
        header = _header(folder, run, encoders.name, models, precision)
        data = encoders.data(source, list(towers.values()), workers=workers)
        manifest = open_source(data)
        clips = ClipDataset(manifest, data, split=split, training=False, replace=False)
        parts = Parts(folder, header.generation + 1)
        number, header = _source_number(folder, header, data, manifest)
        keys: list[Key] = [(number, clip.path, clip.start, clip.end) for clip in clips.clips]
        before = {_key(row) for row in _stored(folder, header)}
        known = before | {_key(row) for row in parts.rows()}
        todo = [index for index, key in enumerate(keys) if key not in known]
        _allow(header, len(known) + len(todo), memory)
        store.write_header(folder, header)
        writer = _Writer(parts, number, manifest, keep_every)
        failures = _encode(clips, data, todo, models, writer)
        if writer.added or parts.paths:
            header = write_generation(folder, header, parts)
        store.remove_others(folder, header)
        if not header.number:
            (folder / "index.json").unlink()
            path, reason = next(iter(failures.items()))
            raise UserError(
                f"none of the {len(clips)} clips of {source} could be read; {path}: {reason}"
            )
        here = {_key(row) for row in _stored(folder, header)}
        missing = [
            clip.path for clip, key in zip(clips.clips, keys, strict=True) if key not in here
        ]
    return Indexed(
        added=header.number - len(before),
        already=sum(key in before for key in keys),
        number=header.number,
        unreadable=[(path, failures.get(path, "cannot be read")) for path in missing],
        left_out=clips.left_out,
    )


class _Writer:
    """Collects rows and vectors, and keeps them in portions."""

    def __init__(self, parts: Parts, source: int, manifest: Manifest, every: float) -> None:
        self.parts, self.source, self.manifest, self.every = parts, source, manifest, every
        self.rows: list[dict[str, Any]] = []
        self.vectors: list[dict[str, np.ndarray]] = []
        self.added, self.kept_at = 0, time.monotonic()

    def add(self, clips: Sequence[int], vectors: Mapping[str, np.ndarray]) -> None:
        """Rows of the manifest, and their vectors [B, D] by modality."""
        self.rows += [_row(self.manifest.clips[clip], self.source) for clip in clips]
        self.vectors.append(dict(vectors))
        self.added += len(clips)
        if time.monotonic() - self.kept_at >= self.every:
            self.keep()

    def keep(self) -> None:
        """Write what was collected."""
        if self.rows:
            joined = {
                name: np.concatenate([item[name] for item in self.vectors])
                for name in self.vectors[0]
            }
            self.parts.add(self.rows, joined)
        self.rows, self.vectors, self.kept_at = [], [], time.monotonic()


def _held(folder: Path) -> list[str]:
    """The modalities of the index in a folder; none where there is no index."""
    there = (folder / "index.json").is_file()
    return list(store.read_header(folder).modalities) if there else []


def _streams(encoders: Encoders, source: str, split: str | None, workers: int) -> list[str]:
    """What the model reads and some clip of the source has; all that the model reads where no clip
    has anything."""
    towers = towers_of(encoders)
    if not towers:
        raise UserError(
            f"{encoders.name} has no encoder of sound or picture alone to search by: it has "
            f"{', '.join(encoders.names)}"
        )
    rows = open_source(encoders.data(source, list(towers.values()), workers=workers)).clips
    rows = [clip for clip in rows if split is None or clip.split == split]
    has = {"audio": any(c.has_audio for c in rows), "video": any(c.has_video for c in rows)}
    if not any(has[name] for name in towers):
        return list(towers)
    for name in towers:
        if not has[name]:
            print(f"{name} is left out: no clip has a {WORDS[name]}", file=sys.stderr, flush=True)
    return [name for name in towers if has[name]]


def _header(
    folder: Path, run: Path, model: str, encoders: Mapping[str, Encoder], precision: str
) -> store.Header:
    """That of the index in the folder, if it is of the same kind, else a new one."""
    if not (folder / "index.json").is_file():
        return store.Header(
            model=model,
            run=os.path.relpath(run.resolve(), folder.resolve()),
            modalities={
                name: store.Modality(encoder.fingerprint, encoder.width)
                for name, encoder in encoders.items()
            },
            precision=precision,
        )
    header = store.read_header(folder)
    if set(header.modalities) != set(encoders):
        raise UserError(
            f"{folder} is an index of {' and '.join(header.modalities)}, not of "
            f"{' and '.join(encoders)}: give the same --modality, or another folder with --out"
        )
    for name, encoder in encoders.items():
        same_model(
            encoder.fingerprint,
            header.modalities[name].fingerprint,
            folder=folder,
            model=header.model,
            run=run,
        )
    if header.precision != precision:
        raise UserError(
            f"{folder} holds {header.precision} vectors, not {precision}: leave --precision as it "
            "was, or name another folder with --out"
        )
    if header.number:
        store.check_files(folder, header)
    return header


def _source_number(
    folder: Path, header: store.Header, data: DataConfig, manifest: Manifest
) -> tuple[int, store.Header]:
    """The number of a source in the header, which it is added to if it is new."""
    name = os.path.relpath(manifest.root.resolve(), folder.resolve())
    if data.source.startswith("corpus:") and data.cache is None:
        name = data.source  # in the usual cache of whoever searches
    if name not in header.sources:
        header = dataclasses.replace(header, sources=[*header.sources, name])
    return list(header.sources).index(name), header


def _stored(folder: Path, header: store.Header) -> Iterator[dict[str, Any]]:
    """Rows of the index as it is."""
    if header.number:
        rows = store.Rows(folder / header.name("clips.jsonl"), header.number)
        for row in range(header.number):
            yield rows[row]


def _row(clip: Clip, source: int) -> dict[str, Any]:
    """What of a clip is stored: its source and every column that says something."""
    columns = {item.name: getattr(clip, item.name) for item in dataclasses.fields(Clip)}
    del columns["extra"]
    return {"source": source} | {k: v for k, v in columns.items() if v not in (None, "")}


def _key(row: Mapping[str, Any]) -> Key:
    return row["source"], row["path"], row.get("start"), row.get("end")


def _allow(header: store.Header, number: int, memory: int) -> None:
    needed = number * _PER_CLIP + sum(
        build_memory(number, modality.width) for modality in header.modalities.values()
    )
    advice = "raise --memory, or index fewer clips or one --modality"
    allow(needed, memory, what=f"an index of {number} clips", advice=advice)


def _encode(
    clips: ClipDataset,
    data: DataConfig,
    todo: Sequence[int],
    encoders: Mapping[str, Encoder],
    writer: _Writer,
) -> dict[str, str]:
    """Encode clips into the writer; path -> reason of those that could not be."""
    failures: dict[str, str] = {}
    progress, done = ProgressLine("indexing:"), 0
    batches = [[(0, k) for k in todo[i : i + _BATCH]] for i in range(0, len(todo), _BATCH)]
    for group, batch in zip(batches, Loader(clips, data, batches), strict=True):
        failures |= dict(batch["failures"])
        rows = batch["clip"].tolist()
        if rows:
            vectors = {name: _unit(encoder, batch) for name, encoder in encoders.items()}
            good = np.all([np.isfinite(x).all(1) for x in vectors.values()], axis=0)  # [B]
            for row, fine in zip(rows, good, strict=True):
                if not fine:
                    path = writer.manifest.clips[row].path
                    failures[path] = "its features are zero or not finite"
            kept = [row for row, fine in zip(rows, good, strict=True) if fine]
            writer.add(kept, {name: x[good] for name, x in vectors.items()})
        done += len(group)
        progress(done, len(todo), done - writer.added)
    writer.keep()
    return failures


def _unit(encoder: Encoder, batch: Mapping[str, Any]) -> np.ndarray:
    """Unit vectors fp32 [B, D]; NaN where there is no direction."""
    read = [name for name in (*encoder.inputs, REAL) if name in batch]
    inputs = {name: batch[name].to(encoder.device) for name in read}
    with torch.no_grad():
        features = encoder.encode(inputs).double().cpu().numpy()  # [B, D]
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(unit, dtype=np.float32)
