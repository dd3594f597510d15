"""Rows of tensors on disk, one row for each clip: what `teacher_cache` writes and reads.

::

    cache.json       what the rows were made from, and the shape and type of each tensor
    <node.port>.npy  [clips, ...], one row for each clip
    rows.npy         uint32 [clips], the checksum of a clip's rows in all files; 0: not written

The files have their full size from the start, sparse where the file system can. Rows are written
by position, first the tensors, then the checksum, so a process that is killed leaves a row that
counts as not written. No two ranks write the same row at a time, for the clips of a global batch
differ; a row that is damaged all the same does not fit its checksum and is made anew. Nothing is
mapped into memory: a full disk is an error that can be told, not a signal.

Letters: R rows asked for.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from avssl.errors import UserError
from avssl.files import write_whole

RECORD, SUMS = "cache.json", "rows.npy"
Precision = Literal["fp32", "fp16", "bf16"]
# NumPy has no bfloat16: its bits are stored
_STORED: dict[Precision, np.dtype[Any]] = {
    "fp32": np.dtype("<f4"),
    "fp16": np.dtype("<f2"),
    "bf16": np.dtype("<u2"),
}
_TYPES: dict[Precision, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
}


@dataclass(frozen=True)
class _File:
    handle: int
    begin: int  # byte of the first row
    shape: tuple[int, ...]  # of a row
    dtype: np.dtype[Any]

    @property
    def row(self) -> int:
        """Bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def read(self, row: int, out: np.ndarray) -> bytes | None:
        """Fill `out`, [...], and give its bytes; None where the file ends before."""
        found = os.pread(self.handle, self.row, self.begin + row * self.row)
        if len(found) != self.row:
            return None
        out[...] = np.frombuffer(found, self.dtype).reshape(self.shape)
        return found

    def write(self, row: int, values: bytes) -> None:
        done = 0
        while done < len(values):
            done += os.pwrite(self.handle, values[done:], self.begin + row * self.row + done)


class TargetStore:
    """An open folder of rows.

    Args:
        folder: where `make` has put one.

    Attributes:
        made_of: what the rows were made from.
        damaged: rows so far that did not fit their checksums.

    Raises:
        UserError: a file is missing, damaged or of another size.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.damaged = folder, 0
        self._files: dict[str, _File] = {}
        record = read_record(folder)
        assert record is not None
        try:
            self.made_of = record["made_of"]
            self._precision: Precision = record["precision"]
            rows, shapes = record["rows"], record["shapes"]
            for key, shape in shapes.items():
                self._files[key] = self._open(f"{key}.npy", rows, tuple(shape), self._precision)
            self._sums = self._open(SUMS, rows, (), None)
        except (KeyError, TypeError, AttributeError) as error:
            raise _damaged(folder, f"{RECORD} lacks {error}") from None

    @staticmethod
    def make(
        folder: Path,
        *,
        rows: int,
        shapes: Mapping[str, Sequence[int]],
        precision: Precision,
        made_of: Mapping[str, Any],
    ) -> None:
        """Make an empty store, whole or not at all; where another process was first, its own stays.

        Args:
            rows: clips.
            shapes: name of a tensor -> shape of one clip's.
            precision: in which values are stored.
            made_of: kept beside the rows, JSON.
        """
        temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        try:
            for key, shape in shapes.items():
                _make_file(temporary / f"{key}.npy", (rows, *shape), _STORED[precision])
            _make_file(temporary / SUMS, (rows,), np.dtype("<u4"))
            record = {
                "made_of": made_of,
                "precision": precision,
                "rows": rows,
                "shapes": {key: list(shape) for key, shape in shapes.items()},
            }
            write_whole(temporary / RECORD, json.dumps(record, indent=1))
            try:
                os.rename(temporary, folder)
            except OSError:
                if not (folder / RECORD).is_file():
                    raise
        finally:
            shutil.rmtree(temporary, ignore_errors=True)

    def read(self, rows: Sequence[int]) -> tuple[dict[str, Tensor], Tensor]:
        """The rows that are there.

        Args:
            rows: R numbers.

        Returns:
            name -> float32 [R, ...], zeros where a row is not there; and bool [R], which are.
        """
        there = torch.zeros(len(rows), dtype=torch.bool)
        arrays = {
            key: np.zeros((len(rows), *file.shape), file.dtype) for key, file in self._files.items()
        }
        wanted = np.zeros((), self._sums.dtype)
        for place, row in enumerate(rows):
            self._sums.read(row, wanted)
            if not wanted:
                continue
            found = [self._files[key].read(row, array[place, ...]) for key, array in arrays.items()]
            parts = [part for part in found if part is not None]
            whole = len(parts) == len(found) and _sum(parts) == int(wanted)
            there[place] = whole
            self.damaged += not whole
        return {key: self._values(array) for key, array in arrays.items()}, there

    def write(self, rows: Sequence[int], values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Store rows, and give them as they will be read.

        Args:
            rows: R numbers.
            values: name -> [R, ...].

        Raises:
            UserError: values are too large for the precision, or there is no room on the disk.
        """
        stored = {key: self._array(key, value) for key, value in values.items()}
        try:
            for place, row in enumerate(rows):
                parts = []
                for key, array in stored.items():
                    parts.append(array[place].tobytes())
                    self._files[key].write(row, parts[-1])
                self._sums.write(row, np.array(_sum(parts), self._sums.dtype).tobytes())
        except OSError as error:
            raise UserError(
                f"could not write the teacher cache {self.folder}: {error.strerror}. It needs "
                f"{self.bytes / 1e9:.1f} GB in all; what is written stays of use"
            ) from error
        return {key: self._values(array) for key, array in stored.items()}

    @property
    def keys(self) -> list[str]:
        """Names of the tensors."""
        return list(self._files)

    @property
    def bytes(self) -> int:
        """Of all rows."""
        rows = os.fstat(self._sums.handle).st_size // self._sums.row
        return rows * sum(file.row for file in self._files.values())

    def close(self) -> None:
        """Let go of the files."""
        for file in (*self._files.values(), self._sums):
            os.close(file.handle)

    def _array(self, key: str, value: Tensor) -> np.ndarray:
        kind = _TYPES[self._precision]
        made = value.detach().to("cpu", kind).contiguous()
        if kind == torch.float16 and not bool(made.isfinite().all()):
            raise UserError(
                f"targets '{key}' reach {value.abs().max():.3g}, too large for fp16: set "
                "teacher_cache.precision to bf16 or fp32"
            )
        array: np.ndarray = (made.view(torch.uint16) if kind == torch.bfloat16 else made).numpy()
        return array

    def _values(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array).view(_TYPES[self._precision]).float()

    def _open(
        self, name: str, rows: int, shape: tuple[int, ...], precision: Precision | None
    ) -> _File:
        dtype = np.dtype("<u4") if precision is None else _STORED[precision]
        path, whole = _regular(self.folder, name), (rows, *shape)
        try:
            handle = os.open(path, os.O_RDWR)
        except OSError as error:
            raise _damaged(self.folder, f"{name}: {error.strerror}") from error
        with os.fdopen(os.dup(handle), "rb") as file:
            try:
                np.lib.format.read_magic(file)
                found, _, kind = np.lib.format.read_array_header_1_0(file)
            except Exception as error:  # of Python's own parser, too, which reads the header
                raise _damaged(self.folder, f"{name} is no .npy file") from error
            begin = file.tell()
        opened = _File(handle, begin, shape, dtype)
        size, expected = os.fstat(handle).st_size, begin + rows * opened.row
        if (found, kind) != (whole, dtype) or size != expected:
            raise _damaged(
                self.folder,
                f"{name} has {size:,} bytes of {list(found)} {kind} instead of {expected:,} of "
                f"{list(whole)} {dtype}",
            )
        return opened


def read_record(folder: Path) -> dict[str, Any] | None:
    """cache.json; None where there is no such folder, or it is empty.

    Raises:
        UserError: it is damaged, or the folder holds something else.
    """
    if not folder.exists() or (folder.is_dir() and not any(folder.iterdir())):
        return None
    try:
        record = json.loads(_regular(folder, RECORD).read_text(encoding="utf-8"))
        if not isinstance(record, dict) or not isinstance(record["made_of"], dict):
            raise ValueError("no record")
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise _damaged(folder, f"{RECORD} cannot be read") from error
    return record


def _damaged(folder: Path, what: str) -> UserError:
    return UserError(
        f"the teacher cache {folder} is damaged or none ({what}): remove the folder, and it is "
        "made anew, or give another one"
    )


def _regular(folder: Path, name: str) -> Path:
    """A file of the folder; anything else, such as a pipe, could be waited for without end."""
    if (folder / name).exists() and not (folder / name).is_file():
        raise _damaged(folder, f"{name} is no regular file")
    return folder / name


def _make_file(path: Path, shape: tuple[int, ...], dtype: np.dtype[Any]) -> None:
    header = {"descr": dtype.str, "fortran_order": False, "shape": shape}
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.truncate(file.tell() + math.prod(shape) * dtype.itemsize)


def _sum(parts: Sequence[bytes]) -> int:
    """CRC-32 of a clip's rows, never 0."""
    found = 0
    for part in parts:
        found = zlib.crc32(part, found)
    return found or 1
