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

import errno
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
        read_only: why nothing can be written; None where it can.

    Raises:
        UserError: a file is missing, damaged, of another size or may not be read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.damaged = folder, 0
        self.read_only: str | None = None
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

        Raises:
            UserError: the folder cannot be made or written.
        """
        place = Path(os.path.realpath(folder))  # a folder cannot replace a link
        temporary = place.with_name(f".{place.name}.{os.getpid()}.tmp")
        shutil.rmtree(temporary, ignore_errors=True)
        record = {
            "made_of": made_of,
            "precision": precision,
            "rows": rows,
            "shapes": {key: list(shape) for key, shape in shapes.items()},
        }
        try:
            temporary.mkdir(parents=True)
            for key, shape in shapes.items():
                _make_file(temporary / f"{key}.npy", (rows, *shape), _STORED[precision])
            _make_file(temporary / SUMS, (rows,), np.dtype("<u4"))
            write_whole(temporary / RECORD, json.dumps(record, indent=1))
            os.rename(temporary, place)
        except OSError as error:
            if not (folder / RECORD).is_file():
                raise _not_made(folder, error.strerror) from error
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
        """Store rows, unless this may only be read, and give them as they will be read.

        Args:
            rows: R numbers.
            values: name -> [R, ...].

        Raises:
            UserError: values are too large for the precision, or there is no room on the disk.
        """
        stored = {key: self._array(key, value) for key, value in values.items()}
        try:
            for place, row in enumerate(rows if self.read_only is None else ()):
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

    @property
    def lacking(self) -> tuple[int, int]:
        """How many rows are not there, and of how many."""
        sums = self._sums
        size = os.fstat(sums.handle).st_size - sums.begin
        found = np.frombuffer(os.pread(sums.handle, size, sums.begin), sums.dtype)
        return int((found == 0).sum()), size // sums.row

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
            try:
                handle = os.open(path, os.O_RDWR)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EPERM, errno.EROFS):
                    raise
                handle, self.read_only = os.open(path, os.O_RDONLY), error.strerror
        except PermissionError as error:
            raise _unreadable(self.folder, error) from error
        except OSError as error:
            raise _damaged(self.folder, f"{name}: {error.strerror}") from error
        with os.fdopen(os.dup(handle), "rb") as file:
            try:
                np.lib.format.read_magic(file)
                found, _, kind = np.lib.format.read_array_header_1_0(file)
            except OSError as error:  # of the disk, which says nothing of what is on it
                error.filename = path
                raise _unreadable(self.folder, error) from error
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
        UserError: it is damaged or may not be read, or the folder holds something else.
    """
    try:
        held = sorted(os.listdir(folder))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unreadable(folder, error) from error
    if held and RECORD not in held:
        raise UserError(
            f"{folder} is no teacher cache, for it holds {held[0]} and no {RECORD}: give another "
            "teacher_cache.folder"
        )
    try:
        record = json.loads(_regular(folder, RECORD).read_text(encoding="utf-8")) if held else None
        if held and not (isinstance(record, dict) and isinstance(record["made_of"], dict)):
            raise ValueError("no record")
    except PermissionError as error:
        raise _unreadable(folder, error) from error
    except (OSError, ValueError, KeyError, RecursionError) as error:
        raise _damaged(folder, f"{RECORD} cannot be read") from error
    return record


def check_place(folder: Path) -> None:
    """Make sure that a store can be made in a folder that is not there, or is empty.

    Raises:
        UserError: the nearest folder above it is none, or cannot be written.
    """
    above = Path(os.path.realpath(folder)).parent
    while not os.path.lexists(above):
        above = above.parent
    if not above.is_dir():
        raise _not_made(folder, f"{above} is no folder")
    if not os.access(above, os.W_OK | os.X_OK):
        raise _not_made(folder, f"{above} cannot be written")


def _damaged(folder: Path, what: str) -> UserError:
    own = all(name == RECORD or name.endswith(".npy") for name in os.listdir(folder))
    advice = "remove the folder, and it is made anew, or give another one"
    return UserError(
        f"the teacher cache {folder} is damaged or none ({what}): "
        f"{advice if own else 'give another teacher_cache.folder'}"
    )


def _not_made(folder: Path, why: str | None) -> UserError:
    return UserError(
        f"could not make the teacher cache {folder}: {why}. Mend this, or give another "
        "teacher_cache.folder"
    )


def _unreadable(folder: Path, error: OSError) -> UserError:
    return UserError(
        f"could not read the teacher cache {folder}: '{error.filename}': {error.strerror}. Mend "
        "this, or give another teacher_cache.folder"
    )


def _regular(folder: Path, name: str) -> Path:
    """A file of the folder; anything else, such as a pipe, could be waited for without end."""
    path = folder / name
    if os.path.exists(path) and not os.path.isfile(path):
        raise _damaged(folder, f"{name} is no regular file")
    return path


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
