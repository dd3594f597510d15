"""Features of every clip of a folder or manifest, written as they come and continued after a stop.

Letters: N clips, M tokens, D width, L layers.
"""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from avssl.data.batches import frame_counts, zero_inputs
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.manifest import Clip, Manifest
from avssl.data.scan import ProgressLine
from avssl.data.source import open_source
from avssl.encoders.encoder import Encoder, Pool
from avssl.encoders.load import Encoders
from avssl.encoders.shards import (
    Format,
    Row,
    Shard,
    read_rows,
    shard_path,
    shard_paths,
    write_shard,
)
from avssl.encoders.windows import Span, window_rows
from avssl.errors import UserError
from avssl.files import locked, write_whole

Failed = tuple[str, float | None, float | None, str]

RECORD = "extract.json"
SHARD_BYTES = 2**28  # a file is closed when it holds so much, however few clips
FAILURES = "failures.csv"


@dataclass(frozen=True)
class Wanted:
    """What is extracted.

    module: name of the encoder. layer: one, several, or the encoder's own output. split: of the
    clips; None for all. shard: clips of one file.
    """

    module: str
    layer: tuple[int, ...] | int | None
    pool: Pool
    span: Span
    format: Format
    split: str | None
    shard: int


@dataclass(frozen=True)
class Extracted:
    """Counts of clips written now and before; (path, start, end, reason) of those that cannot be
    used; seconds of work."""

    written: int
    before: int
    failures: list[Failed]
    seconds: float


def extract(
    encoders: Encoders, source: str, folder: Path, wanted: Wanted, **loading: Any
) -> Extracted:
    """Write the features of a source's clips into a folder; clips that are there are left.

    Args:
        source: corpus:NAME, a folder of media or a manifest.
        folder: gets features-00000.* and so on, extract.json, and failures.csv.
        loading: values of the data section, such as workers.

    Raises:
        UserError: the folder holds something else, the source nothing that can be used, or an
            argument does not suit the encoder.
    """
    encoder = encoders[wanted.module]
    data = encoders.data(source, [wanted.module], **loading)
    with torch.no_grad():  # a layer or token that is not there is found before anything is written
        zeros = zero_inputs(encoder.inputs, device=encoder.device)
        encoder.encode(zeros, layer=wanted.layer, pool=wanted.pool)
    manifest = open_source(data)
    chosen = ClipDataset(manifest, data, split=wanted.split, replace=False)
    _claim(folder, encoder, manifest, wanted)
    with locked(folder, f"another process writes features to {folder}: wait for it"):
        done, number = _done(folder, wanted.format)
        todo = [clip for clip in chosen.clips if _key(clip) not in done]
        begin = time.monotonic()
        reasons: dict[str, str] = {}
        written: set[tuple[Any, ...]] = set()
        if todo:
            windows = [window_rows(clip, data, wanted.span) for clip in todo]
            owners = [position for position, rows in enumerate(windows) for _ in rows]
            rows = Manifest(manifest.root, [row for part in windows for row in part])
            dataset = ClipDataset(rows, data, split=None, replace=False)
            batches = make_eval_loader(dataset, data, device=encoder.device)
            written = Job(folder, encoder, wanted, todo, owners).write(batches, reasons, number)
        unreadable = [
            (clip.path, clip.start, clip.end, reasons.get(clip.path, "cannot be read"))
            for clip in todo
            if _key(clip) not in written
        ]
        failures = [(path, None, None, reason) for path, reason in chosen.left_out] + unreadable
        _write_failures(folder / FAILURES, failures)
    return Extracted(len(written), len(done), failures, time.monotonic() - begin)


def _claim(folder: Path, encoder: Encoder, manifest: Manifest, wanted: Wanted) -> None:
    """Note what the folder is for, or make sure that it is for this."""
    record = {
        "model": encoder.fingerprint,
        "root": str(manifest.root.resolve()),
        **dataclasses.asdict(wanted),
    }
    record["layer"] = list(wanted.layer) if isinstance(wanted.layer, tuple) else wanted.layer
    file = folder / RECORD
    if file.is_file():
        try:
            earlier = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            raise UserError(f"{file} is damaged: give another folder") from None
        different = [name for name in record if earlier.get(name) != record[name]]
        if different:
            name = different[0]
            raise UserError(
                f"{folder} holds other features: {name} was {earlier.get(name)!r} and is "
                f"{record[name]!r} now; give another folder with --out"
            )
    elif folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder: give another one with --out")
    else:
        write_whole(file, json.dumps(record, indent=1) + "\n")


def _done(folder: Path, format: Format) -> tuple[set[tuple[Any, ...]], int]:
    """Keys of the clips whose features are there, and the number of the next shard."""
    keys: set[tuple[Any, ...]] = set()
    paths = shard_paths(folder, format)
    for path in paths:
        keys.update((row.path, row.start, row.end) for row in read_rows(path))
    return keys, int(paths[-1].stem.split("-")[1]) + 1 if paths else 0


def _key(clip: Clip) -> tuple[Any, ...]:
    return clip.path, clip.start, clip.end


@dataclass(frozen=True)
class Job:
    """Clips whose features are to be written.

    owners: of each window, in order, the clip that it belongs to.
    """

    folder: Path
    encoder: Encoder
    wanted: Wanted
    clips: Sequence[Clip]
    owners: Sequence[int]

    def write(
        self, batches: Iterable[Mapping[str, Any]], reasons: dict[str, str], number: int
    ) -> set[tuple[Any, ...]]:
        """Encode batches of windows and write shards from `number` on; keys of the clips written.

        reasons: gets why files cannot be read, by path.
        """
        progress = ProgressLine(f"extracting to {self.folder}:")
        written: set[tuple[Any, ...]] = set()
        pending: list[tuple[Clip, dict[str, Tensor]]] = []
        size = 0
        whole = self._whole(self._encoded(batches, reasons))
        for done, (position, features) in enumerate(whole, start=1):
            pending.append((self.clips[position], features))
            size += sum(x.nbytes for x in features.values())
            if len(pending) == self.wanted.shard or size > SHARD_BYTES:
                self._flush(pending, number)
                written.update(_key(clip) for clip, _ in pending)
                number, size, pending = number + 1, 0, []
            progress(done, len(self.clips), len(reasons))
        if pending:
            self._flush(pending, number)
            written.update(_key(clip) for clip, _ in pending)
        return written

    def _encoded(
        self, batches: Iterable[Mapping[str, Any]], reasons: dict[str, str]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """(window, its features by input: [D], [L, D], [N, D] or [N, L, D]) of the readable."""
        wanted = self.wanted
        for batch in batches:
            reasons.update(batch["failures"])
            if not len(batch["clip"]):
                continue
            with torch.no_grad():
                out = self.encoder.encode(batch, layer=wanted.layer, pool=wanted.pool)
            parts = out if isinstance(out, dict) else {"features": out}
            parts = {name: x.float().cpu() for name, x in parts.items()}
            if isinstance(wanted.layer, tuple):  # [L, B, ..., D] -> [B, ..., L, D]
                parts = {name: x.movedim(0, -2) for name, x in parts.items()}
            counts = frame_counts(batch, self.encoder.inputs) if wanted.pool == "none" else None
            for row, window in enumerate(batch["clip"].tolist()):
                features = {name: x[row] for name, x in parts.items()}
                if counts is not None:  # [T, D] or [T, L, D] without what lies behind the clip
                    features = {name: x[: counts[row]] for name, x in features.items()}
                yield window, features

    def _whole(
        self, windows: Iterable[tuple[int, dict[str, Tensor]]]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """(clip, its features) once all its windows are there, in any order; else it is left out.

        In the order of length other clips may come between the windows of one: where
        data.lengths.longest is no whole number of frames, windows may differ by a frame.
        """
        counts = Counter(self.owners)
        waiting: dict[int, dict[int, dict[str, Tensor]]] = {}  # clip -> window -> features
        for window, features in windows:
            owner = self.owners[window]
            parts = waiting.setdefault(owner, {})
            parts[window] = features
            if len(parts) == counts[owner]:
                del waiting[owner]
                yield owner, _joined([parts[place] for place in sorted(parts)], self.wanted.pool)

    def _flush(self, pending: Sequence[tuple[Clip, dict[str, Tensor]]], number: int) -> None:
        features: dict[str, np.ndarray] = {}
        tokens: dict[str, np.ndarray] = {}
        for name in pending[0][1]:
            parts = [found[name] for _, found in pending]
            if self.wanted.pool == "none":
                features[name] = torch.cat(parts).numpy()
                tokens[name] = np.array([len(part) for part in parts])
            else:
                features[name] = torch.stack(parts).numpy()
        rows = [Row(clip.path, clip.start, clip.end, clip.label) for clip, _ in pending]
        path = shard_path(self.folder, number, self.wanted.format)
        write_shard(path, Shard(features, tokens, rows))


def _joined(parts: list[dict[str, Tensor]], pool: Pool) -> dict[str, Tensor]:
    """A clip's features from those of its windows."""
    if len(parts) == 1:
        return parts[0]
    several = {name: [part[name] for part in parts] for name in parts[0]}
    if pool == "none":
        return {name: torch.cat(x) for name, x in several.items()}  # [N, D] or [N, L, D]
    return {name: torch.stack(x).mean(0) for name, x in several.items()}  # [D] or [L, D]


def _write_failures(file: Path, failures: Sequence[Failed]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([("path", "start", "end", "reason"), *failures])
    write_whole(file, text.getvalue())
