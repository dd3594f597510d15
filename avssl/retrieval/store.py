"""The index folder: which files it holds, and how they change all at once or not at all.

    index.json         what the index is of, and which files belong to it
    clips.K.jsonl      one object a clip; the line number, from 0, is the clip's id for good
    MODALITY.K.npy     unit vectors [N, D], in the order of ids, read through a memory map
    MODALITY.K.faiss   where there are too many vectors to compare with each one
    parts/             what an unfinished `index` has done so far

K is a generation. Adding clips writes the files of the next one beside those in use, and they count
from the moment that index.json, written last and renamed into place, names them.

Letters: N clips, D width.
"""

import contextlib
import dataclasses
import fcntl
import functools
import hashlib
import json
import os
import shutil
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from avssl.data.manifest import Clip
from avssl.errors import UserError
from avssl.files import half_written, write_whole

FORMAT = 1
_KINDS = ("npy", "faiss")
_LARGEST = 1e15  # of the numbers of a row
PRECISIONS = ("float32", "float16")
_HASHED_UP_TO = 1 << 30  # bytes: larger files are checked by their size, and rows when read


@dataclass(frozen=True)
class Modality:
    """The vectors of one modality. nearest: type and parameters of `avssl.retrieval.nearest`."""

    fingerprint: str  # of the encoder
    width: int
    nearest: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Header:
    """index.json. Paths are relative to the index folder."""

    model: str
    run: str
    modalities: Mapping[str, Modality]
    precision: str = "float32"
    sources: Sequence[str] = ()  # folders that the clips' paths are relative to, or corpus:NAME
    generation: int = 0  # 0: no clip yet
    number: int = 0  # of clips
    files: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # name -> bytes, sha256

    def name(self, what: str) -> str:
        """File name of this generation: `header.name("audio.npy")` is audio.3.npy."""
        stem, _, kind = what.partition(".")
        return f"{stem}.{self.generation}.{kind}"


def read_header(folder: Path) -> Header:
    """Read index.json.

    Raises:
        UserError: no index there, one of another format, or a damaged file.
    """
    path = folder / "index.json"
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if found["format"] != FORMAT:
            raise UserError(
                f"{path} has the format {found['format']}, this version reads {FORMAT}: build the "
                "index anew"
            )
        del found["format"]
        found["modalities"] = {
            str(name): Modality(**entry) for name, entry in found["modalities"].items()
        }
        header = Header(**found)
        _check(header)
    except FileNotFoundError:
        raise UserError(
            f"{folder} is no index, it has no index.json: build one with "
            "tools/retrieve.py index DATA --run RUN --out FOLDER"
        ) from None
    except (IsADirectoryError, NotADirectoryError):
        raise UserError(
            f"{path} is no file in an index folder: name the folder that tools/retrieve.py index "
            "wrote, or build the index anew"
        ) from None
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path} is damaged ({error}): build the index anew") from None
    return header


def _check(header: Header) -> None:
    """Raises ValueError when a value is of another kind than it must be."""
    modalities = header.modalities.values()
    numbers = [header.generation, header.number, *(entry.width for entry in modalities)]
    texts = [header.model, header.run, *(entry.fingerprint for entry in modalities)]
    tables = [*(entry.nearest for entry in modalities), *header.files.values()]
    if not all(type(number) is int and number >= 0 for number in numbers):
        raise ValueError("a count is not a whole number")
    if not isinstance(header.sources, list):
        raise ValueError("sources are not a list")
    if not all(isinstance(text, str) for text in [*texts, *header.sources]):
        raise ValueError("a name is not a text")
    if not all(isinstance(table, dict) for table in tables):
        raise ValueError("what it says of a file is not a table")
    if header.precision not in PRECISIONS or not header.modalities:
        raise ValueError("precision or modalities are unknown")


def write_header(folder: Path, header: Header) -> None:
    """Write index.json: from now on the folder is what the header says."""
    write_whole(
        folder / "index.json",
        json.dumps({"format": FORMAT, **dataclasses.asdict(header)}, indent=1) + "\n",
    )


def check_files(folder: Path, header: Header) -> None:
    """Compare the files with what index.json says of them.

    Raises:
        UserError: a file is missing or not the one that was written.
    """
    needed = {header.name("clips.jsonl")} | {header.name(f"{m}.npy") for m in header.modalities}
    for name in sorted(needed | set(header.files)):
        path = folder / name
        if name not in header.files or not path.is_file():
            raise UserError(f"{path} is missing: the index is damaged, build it anew")
        if describe(path) != dict(header.files[name]):
            raise UserError(
                f"{path} is not the file that was written: the index is damaged, build it anew"
            )


def describe(path: Path) -> dict[str, Any]:
    """Size and, up to 1 GiB, hash of a file."""
    size = path.stat().st_size
    if size > _HASHED_UP_TO:
        return {"bytes": size}
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return {"bytes": size, "sha256": digest.hexdigest()}


def open_vectors(folder: Path, header: Header, modality: str) -> np.ndarray:
    """The unit vectors [N, D] as a read-only memory map.

    Raises:
        UserError: the file does not hold what index.json promises.
    """
    path = folder / header.name(f"{modality}.npy")
    try:
        vectors = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(vectors, np.ndarray):
            raise ValueError("an archive")
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from None
    except Exception as error:  # of many kinds: numpy lets the errors of its parsers through
        raise UserError(f"{path} is damaged ({error}): build the index anew") from None
    expected = (header.number, header.modalities[modality].width)
    if vectors.shape != expected or vectors.dtype != np.dtype(header.precision):
        raise UserError(
            f"{path} holds {vectors.dtype} {list(vectors.shape)}, index.json promises "
            f"{header.precision} {list(expected)}: build the index anew"
        )
    return vectors


class Rows:
    """The lines of clips.K.jsonl, parsed when asked for; opening finds where they begin."""

    def __init__(self, path: Path, number: int) -> None:
        self._path = path
        try:
            self._bytes: np.ndarray = np.memmap(path, np.uint8, "r")
        except ValueError as error:  # an empty file
            raise UserError(f"{path} is damaged ({error}): build the index anew") from None
        ends = [
            np.flatnonzero(self._bytes[first : first + (1 << 24)] == ord("\n")) + first
            for first in range(0, len(self._bytes), 1 << 24)
        ]
        self._ends = np.concatenate(ends)  # [N]
        if len(self._ends) != number:
            raise UserError(
                f"{path} has {len(self._ends)} lines, index.json promises {number}: build the "
                "index anew"
            )

    def __len__(self) -> int:
        return len(self._ends)

    def __getitem__(self, row: int) -> dict[str, Any]:
        begin = int(self._ends[row - 1]) + 1 if row else 0
        try:
            found: dict[str, Any] = json.loads(self._bytes[begin : int(self._ends[row])].tobytes())
            _check_row(found)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(
                f"{self._path} is damaged (line {row + 1}: {error}): build the index anew"
            ) from None
        return found


def _check_row(row: Mapping[str, Any]) -> None:
    """Raises KeyError or ValueError unless a row holds the columns of a clip and its source."""
    for name, value in row.items():
        if type(value) not in _column_types()[name]:
            raise ValueError(f"{name} is {type(value).__name__}")
        if type(value) in (int, float) and not abs(value) < _LARGEST:  # nor NaN
            raise ValueError(f"{name} is no number in use")
    if "path" not in row or "source" not in row:
        raise ValueError("no path or no source")


@functools.cache
def _column_types() -> dict[str, set[Any]]:
    """The types that each column of a row may have."""
    types: dict[str, set[Any]] = {"source": {int}}
    for name, annotation in typing.get_type_hints(Clip).items():
        kinds = set(typing.get_args(annotation) or (annotation,))
        types[name] = kinds | ({int} if float in kinds else set())
    del types["extra"]
    return types


@contextlib.contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Only one process adds to a folder at a time; it is made if need be.

    Raises:
        UserError: another process does, or the folder holds something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    others = [path.name for path in folder.iterdir() if not path.name.startswith(".")]
    if others and not (folder / "index.json").is_file():
        raise UserError(
            f"{folder} is no index and not empty (it holds {sorted(others)[0]}): name another "
            "folder with --out"
        )
    with open(folder / ".lock", "w", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another process is adding clips to {folder}: wait for it") from None
        yield


def write_rows(path: Path, before: Path | None, rows: Iterator[Mapping[str, Any]]) -> int:
    """Write clips.K.jsonl: the lines of the file before, then those of new rows; how many new."""
    number = 0
    with open(half_written(path), "wb") as file:
        if before is not None:
            with open(before, "rb") as old:
                shutil.copyfileobj(old, file, 1 << 20)
        for row in rows:
            file.write(lines([row]).encode())
            number += 1
        file.flush()
        os.fsync(file.fileno())
    os.replace(half_written(path), path)
    return number


def write_vectors(
    path: Path, portions: Iterator[np.ndarray], *, number: int, width: int, precision: str
) -> None:
    """Write MODALITY.K.npy from portions [N, D] that add up to `number` rows."""
    temporary = half_written(path)
    header = {"descr": np.dtype(precision).str, "fortran_order": False, "shape": (number, width)}
    with open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        for portion in portions:
            file.write(np.ascontiguousarray(portion, dtype=precision).data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def remove_others(folder: Path, header: Header) -> None:
    """Delete files of other generations, and the parts that went into this one."""
    names = ["clips.*.jsonl", *(f"{m}.*.{kind}" for m in header.modalities for kind in _KINDS)]
    for kind in [*names, *(f".{name}.tmp" for name in names)]:
        for path in folder.glob(kind):
            if path.name not in header.files:
                path.unlink(missing_ok=True)
    shutil.rmtree(folder / "parts", ignore_errors=True)


def lines(rows: Sequence[Mapping[str, Any]]) -> str:
    """Rows as lines of JSON."""
    return "".join(json.dumps(row) + "\n" for row in rows)
