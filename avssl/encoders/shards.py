"""Features on disk: files of some hundred clips each, whole or not there, which say what they hold.

Letters: N clips, M tokens of all clips, D width, L layers.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile

import numpy as np

from avssl.errors import UserError
from avssl.files import half_written
from avssl.optional import need

Format = Literal["safetensors", "parquet", "numpy"]
SUFFIXES: dict[str, str] = {"safetensors": ".safetensors", "parquet": ".parquet", "numpy": ".npz"}
_COLUMNS = ("path", "start", "end", "label")
_COUNT = ".tokens"  # of an input: how many of its rows belong to each clip


@dataclass(frozen=True)
class Row:
    """One clip as its manifest names it; times in s."""

    path: str
    start: float | None
    end: float | None
    label: str


@dataclass(frozen=True)
class Shard:
    """Features of some clips.

    features: "features", or one entry for each input of an encoder of several: pooled float32
    [N, D] or [N, L, D]; tokens [M, D] or [M, L, D], one clip after the other. tokens: of each
    entry, how many belong to each clip, int64 [N]; empty for pooled ones. rows: the clips.
    """

    features: Mapping[str, np.ndarray]
    tokens: Mapping[str, np.ndarray]
    rows: Sequence[Row]


def shard_path(folder: Path, number: int, format: Format) -> Path:
    """Where a shard lies."""
    return folder / f"features-{number:05d}{SUFFIXES[format]}"


def shard_paths(folder: Path, format: Format) -> list[Path]:
    """The shards that are there, in order."""
    return sorted(folder.glob(f"features-[0-9]*{SUFFIXES[format]}"))


def write_shard(path: Path, shard: Shard) -> None:
    """Write a shard, whole or not at all, in the format of its suffix.

    safetensors: the arrays, and the rows as JSON in the metadata. npz: the arrays, and one for
    each column of the rows. parquet: one line per clip, its features as a flat list.
    """
    temporary = half_written(path)
    counts = {f"{name}{_COUNT}": count for name, count in shard.tokens.items()}
    if path.suffix == ".safetensors":
        from safetensors.numpy import save_file

        rows = json.dumps([asdict(row) for row in shard.rows])
        save_file({**shard.features, **counts}, temporary, metadata={"rows": rows})
    elif path.suffix == ".parquet":
        _write_parquet(temporary, shard)
    else:
        columns: dict[str, Any] = {
            name: [getattr(r, name) for r in shard.rows] for name in _COLUMNS
        }
        times = {name: np.array(columns.pop(name), np.float64) for name in ("start", "end")}
        words = {name: np.array(column) for name, column in columns.items()}
        with open(temporary, "wb") as file:
            np.savez(file, **shard.features, **counts, **times, **words)  # type: ignore[arg-type]
    with open(temporary, "rb") as file:
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_shard(path: Path) -> Shard:
    """What `write_shard` wrote.

    Raises UserError when the file is damaged.
    """
    with _readable(path):
        if path.suffix == ".parquet":
            return _read_parquet(path)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as stored:
                arrays = {name: stored[name] for name in stored.files if name not in _COLUMNS}
        else:
            with _safe_open(path) as stored:
                arrays = {name: stored.get_tensor(name) for name in stored.keys()}
        counts = {n.removesuffix(_COUNT): x for n, x in arrays.items() if n.endswith(_COUNT)}
        features = {n: x for n, x in arrays.items() if not n.endswith(_COUNT)}
        return Shard(features, counts, read_rows(path))


def read_rows(path: Path) -> list[Row]:
    """The clips of a shard, without reading its features.

    Raises UserError when the file is damaged.
    """
    with _readable(path):
        if path.suffix == ".safetensors":
            with _safe_open(path) as stored:
                return [Row(**row) for row in json.loads(stored.metadata()["rows"])]
        if path.suffix == ".parquet":
            parquet = need("pyarrow.parquet", extra="export", purpose="the format parquet")
            table = parquet.read_table(path, columns=list(_COLUMNS))
            return _rows({name: table[name].to_pylist() for name in _COLUMNS})
        with np.load(path, allow_pickle=False) as stored:
            columns = {name: stored[name].tolist() for name in _COLUMNS}
        for name in ("start", "end"):
            columns[name] = [None if np.isnan(value) else value for value in columns[name]]
        return _rows(columns)


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, BadZipFile) as error:
        raise UserError(f"{path} is damaged ({error}): remove it and run again") from None


def _safe_open(path: Path) -> Any:
    from safetensors import safe_open

    return safe_open(path, framework="numpy")


def _write_parquet(path: Path, shard: Shard) -> None:
    arrow = need("pyarrow", extra="export", purpose="the format parquet")
    parquet = need("pyarrow.parquet", extra="export", purpose="the format parquet")
    table = _columns(shard.rows)
    shapes: dict[str, Any] = {}
    for name, array in shard.features.items():
        counts = shard.tokens.get(name, np.ones(len(shard.rows), np.int64))
        table[name] = [x.reshape(-1) for x in np.split(array, np.cumsum(counts)[:-1])]
        shapes[name] = {"shape": list(array.shape[1:]), "tokens": name in shard.tokens}
    made = arrow.table(table).replace_schema_metadata({"shapes": json.dumps(shapes)})
    parquet.write_table(made, path)


def _read_parquet(path: Path) -> Shard:
    parquet = need("pyarrow.parquet", extra="export", purpose="the format parquet")
    table = parquet.read_table(path)
    features, tokens = {}, {}
    for name, kind in json.loads(table.schema.metadata[b"shapes"]).items():
        parts = [np.asarray(x, np.float32) for x in table[name].to_pylist()]
        features[name] = np.concatenate(parts).reshape(-1, *kind["shape"])
        if kind["tokens"]:
            size = int(np.prod(kind["shape"]))
            tokens[name] = np.array([len(part) // size for part in parts])
    return Shard(features, tokens, read_rows(path))


def _columns(rows: Sequence[Row]) -> dict[str, Any]:
    return {name: [getattr(row, name) for row in rows] for name in _COLUMNS}


def _rows(columns: Mapping[str, Sequence[Any]]) -> list[Row]:
    return [Row(*row) for row in zip(*(columns[name] for name in _COLUMNS), strict=True)]
