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
    read_shard,
    shard_path,
    shard_paths,
    write_shard,
)
from avssl.encoders.windows import Span, window_rows
from avssl.errors import UserError
from avssl.files import write_whole

RECORD = "extract.json"
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
    """Counts: clips written now and before, the unreadable (path, reason), seconds of work."""

    written: int
    before: int
    failures: list[tuple[str, str]]
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
    manifest = open_source(data)
    _claim(folder, encoder, manifest, wanted)
    done, number = _done(folder, wanted.format)
    chosen = ClipDataset(manifest, data, split=wanted.split, replace=False)
    todo = [clip for clip in chosen.clips if _key(clip) not in done]
    failures = list(chosen.left_out)
    begin, written = time.monotonic(), 0
    if todo:
        windows = [window_rows(clip, data, wanted.span) for clip in todo]
        owners = [number for number, rows in enumerate(windows) for _ in rows]
        rows = [row for part in windows for row in part]
        dataset = ClipDataset(Manifest(manifest.root, rows), data, split=None, replace=False)
        batches = make_eval_loader(dataset, data, device=encoder.device)
        job = Job(folder, encoder, wanted, todo, owners)
        written = job.write(batches, failures, number)
    failures = list(dict(failures).items())  # a clip of several windows once
    _write_failures(folder / FAILURES, failures)
    return Extracted(written, len(done), failures, time.monotonic() - begin)


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
        keys.update((row.path, row.start, row.end) for row in read_shard(path).rows)
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
        self, batches: Iterable[Mapping[str, Any]], failures: list[tuple[str, str]], number: int
    ) -> int:
        """Encode batches of windows and write shards from `number` on; the clips written.

        failures: gets what cannot be read.
        """
        progress = ProgressLine(f"extracting to {self.folder}:")
        written = 0
        pending: list[tuple[Clip, dict[str, Tensor]]] = []
        for position, features in self._whole(self._encoded(batches, failures)):
            pending.append((self.clips[position], features))
            if len(pending) == self.wanted.shard:
                self._flush(pending, number)
                number, written, pending = number + 1, written + len(pending), []
            progress(position + 1, len(self.clips), len(failures))
        if pending:
            self._flush(pending, number)
        return written + len(pending)

    def _encoded(
        self, batches: Iterable[Mapping[str, Any]], failures: list[tuple[str, str]]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """(window, its features by input: [D], [L, D], [N, D] or [N, L, D]) of the readable."""
        wanted = self.wanted
        layer = list(wanted.layer) if isinstance(wanted.layer, tuple) else wanted.layer
        for batch in batches:
            failures.extend(batch["failures"])
            if not len(batch["clip"]):
                continue
            with torch.no_grad():
                out = self.encoder.encode(batch, layer=layer, pool=wanted.pool)
            parts = out if isinstance(out, dict) else {"features": out}
            parts = {name: x.float().cpu() for name, x in parts.items()}
            if isinstance(layer, list):  # [L, B, ..., D] -> [B, ..., L, D]
                parts = {name: x.movedim(0, -2) for name, x in parts.items()}
            for row, window in enumerate(batch["clip"].tolist()):
                yield window, {name: x[row] for name, x in parts.items()}

    def _whole(
        self, windows: Iterable[tuple[int, dict[str, Tensor]]]
    ) -> Iterator[tuple[int, dict[str, Tensor]]]:
        """(clip, its features) once all its windows are there, in order; else it is left out."""
        counts = Counter(self.owners)
        parts: list[dict[str, Tensor]] = []
        current = -1
        for window, features in windows:
            if self.owners[window] != current:
                current, parts = self.owners[window], []
            parts.append(features)
            if len(parts) == counts[current]:
                yield current, _joined(parts, self.wanted.pool)

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


def _write_failures(file: Path, failures: list[tuple[str, str]]) -> None:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([("path", "reason"), *failures])
    write_whole(file, text.getvalue())
