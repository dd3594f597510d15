"""Manifests: a CSV of clips, relative to its own folder, with what the scan found out."""

import csv
import dataclasses
import hashlib
import io
import math
import os
import typing
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from avssl.errors import UserError
from avssl.files import write_whole

SPLITS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Clip:
    """One row: a file or a stretch of it. Times are seconds from the first picture shown
    (from the first sample in files without a picture)."""

    # written by the user
    path: str  # relative to the manifest's folder, forward slashes
    start: float | None = None  # s; None: from the beginning
    end: float | None = None  # s; None: to the end
    label: str = ""
    text: str = ""
    split: str = ""  # train, val or test
    # recorded by the scan
    # decord, pyav (may seek), pyav-linear (decodes from the start) or pillow (stills); "": none
    reader: str = ""
    has_video: bool | None = None  # None: not scanned yet
    has_audio: bool | None = None
    duration: float | None = None  # s, of the picture; of the sound in files without a picture
    fps: float | None = None  # mean pictures per second
    frames: int | None = None  # pictures that decoding yields
    width: int | None = None  # pixels, upright
    height: int | None = None
    rotation: int = 0  # degrees counter-clockwise that make a decoded picture upright
    wav: str = ""  # 16 kHz wav beside the clip that replaces the container's sound
    sound_offset: float = 0.0  # s from the first picture to the first sample
    sound_duration: float | None = None  # s
    # where the file lies in its tar, of a member of a shard
    tar_offset: int | None = None  # bytes
    tar_bytes: int | None = None
    reason: str = ""  # why the clip, or one of its streams, cannot be used
    extra: dict[str, str] = field(
        default_factory=dict
    )  # the user's other columns, kept as they are

    @property
    def sound_path(self) -> str:
        """The file that holds the sound: the wav beside the clip, or the clip itself."""
        return self.wav or self.path

    @property
    def scanned(self) -> bool:
        """Whether the recorded columns are filled."""
        return self.has_video is not None


COLUMNS = [item.name for item in dataclasses.fields(Clip) if item.name != "extra"]
_TYPES = typing.get_type_hints(Clip)


@dataclass
class Manifest:
    """Clips and the folder that their paths are relative to."""

    root: Path
    clips: list[Clip]
    split_by_path: bool = False  # no row named a split, so `with_splits` took them from the paths

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> "Manifest":
        """Read a CSV with at least a `path` column.

        Raises:
            UserError: no such file, no `path` column, a value of the wrong type, a path that leaves
                the manifest's folder, or an unknown split.
        """
        path = Path(path)
        try:
            with open(path, newline="", encoding="utf-8-sig") as file:
                reader = csv.reader(file)
                header = [name.strip() for name in next(reader, [])]
                if "path" not in header:
                    raise UserError(
                        f"{path} has no column 'path': its first line must name the columns, "
                        "at least path, and label, text, split, start, end where there are some"
                    )
                double = sorted({name for name in header if header.count(name) > 1})
                if double:
                    raise UserError(
                        f"{path} has more than one column named {', '.join(map(repr, double))}"
                    )
                columns = [(name, _PARSERS.get(name)) for name in header]
                clips = [_clip(cells, columns, path, reader.line_num) for cells in reader if cells]
        except OSError as error:
            raise UserError(
                f"cannot read the manifest {path}: {error.strerror}; give a CSV file or a folder"
            ) from None
        except UnicodeDecodeError as error:
            raise UserError(
                f"{path} is not a CSV file in UTF-8 ({error}): save it as that; of media files "
                "give their folder"
            ) from None
        except csv.Error as error:
            raise UserError(
                f"{path}, line {reader.line_num}: this is no CSV that can be read ({error})"
            ) from None
        if not clips:
            raise UserError(f"the manifest {path} lists no clip")
        return cls(path.parent, clips)

    def write(self, path: str | os.PathLike[str]) -> None:
        """Write the CSV; whole or not at all. Its folder must be the manifest's root."""
        write_whole(Path(path), self.text())

    def text(self) -> str:
        """The CSV."""
        extra = list(dict.fromkeys(key for clip in self.clips for key in clip.extra))
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(COLUMNS + extra)
        for clip in self.clips:
            cells = [_cell(getattr(clip, name)) for name in COLUMNS]
            writer.writerow(cells + [clip.extra.get(key, "") for key in extra])
        return text.getvalue()

    def file(self, clip: Clip) -> Path:
        """Where the clip's file lies."""
        return self.root / safe_path(clip.path, f"manifest in {self.root}")

    def sound_file(self, clip: Clip) -> Path:
        """Where the clip's sound lies."""
        return self.root / safe_path(clip.sound_path, f"manifest in {self.root}")

    def classes(self) -> list[str]:
        """Label names of all splits in the order of their numbers (sorted)."""
        names = {clip.label for clip in self.clips if clip.label}
        if all(name.isascii() and name.isdigit() for name in names):
            return sorted(names, key=int)
        return sorted(names)

    def with_splits(self) -> "Manifest":
        """A copy in which every clip has a split: the given ones, else `hash_split` of the path.

        Raises:
            UserError: some rows have a split and others have none.
        """
        blank = [clip.path for clip in self.clips if not clip.split]
        if not blank:
            return self
        if len(blank) < len(self.clips):
            raise UserError(
                f"in the manifest in {self.root}, {len(blank)} of {len(self.clips)} rows have no "
                f"split, the first is {blank[0]}: fill the column 'split' in all rows (train, val "
                "or test), or leave it empty in all for a split by path"
            )
        clips = [dataclasses.replace(clip, split=hash_split(clip.path)) for clip in self.clips]
        return Manifest(self.root, clips, split_by_path=True)


def below(folder: str, clip: Clip) -> Clip:
    """A clip as it is seen from the folder above `folder`."""
    wav = f"{folder}/{clip.wav}" if clip.wav else ""
    return dataclasses.replace(clip, path=f"{folder}/{clip.path}", wav=wav)


def hash_split(path: str) -> str:
    """Split of a clip that has none, from its path alone: 80% train, 10% val, 10% test.

    Adding or removing other files never moves a clip.
    """
    share = int(hashlib.sha256(os.fsencode(path)).hexdigest()[:8], 16) % 100
    return "train" if share < 80 else "val" if share < 90 else "test"


def safe_path(path: str, where: str) -> str:
    """The path if it stays below the folder it is relative to.

    Raises:
        UserError: it is absolute or climbs out.
    """
    if path and path[0].isalnum() and not any(sign in path for sign in ("..", "\\", ":", "\0")):
        return path  # nearly all, without the cost below
    parts = PurePosixPath(path.replace("\\", "/")).parts
    if not path or os.path.isabs(path) or "\0" in path or ".." in parts or parts[0].endswith(":"):
        raise UserError(
            f"{where}: path {path!r} points outside the manifest's folder; rows may only name "
            "files below it, so move the manifest up or link the files in"
        )
    return path


def _clip(
    cells: list[str], columns: list[tuple[str, "Parser | None"]], file: Path, line: int
) -> Clip:
    if len(cells) != len(columns):
        more = len(cells) > len(columns)
        advice = "more cells than columns; quote cells that hold a comma"
        raise UserError(f"{file}, line {line}: {advice if more else 'fewer cells than columns'}")
    values: dict[str, typing.Any] = {}
    extra: dict[str, str] = {}
    for (name, parse), cell in zip(columns, cells, strict=True):
        if parse is None:
            extra[name] = cell
        elif cell and not cell.isspace():
            try:
                values[name] = parse(cell)
            except (ValueError, KeyError, OverflowError):
                raise UserError(
                    f"{file}, line {line}: column '{name}' holds {cell!r}, not a number or 0/1"
                ) from None
    where = f"{file}, line {line}"
    if not values.get("path"):
        raise UserError(f"{where}: column 'path' is empty: name the clip's file, or drop the row")
    safe_path(values["path"], where)
    if values.get("wav"):
        safe_path(values["wav"], where)
    if values.get("split") and values["split"] not in SPLITS:
        raise UserError(f"{where}: split {values['split']!r} is none of {', '.join(SPLITS)}")
    clip = Clip(**values, extra=extra)
    if (clip.start or 0) < 0 or (clip.end is not None and clip.end <= (clip.start or 0)):
        raise UserError(f"{where}: start {clip.start} and end {clip.end} enclose nothing")
    return clip


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError
    return value


def _whole(text: str) -> int:
    return int(_number(text))


def _flag(text: str) -> bool:
    return {"1": True, "0": False, "true": True, "false": False}[text.strip().lower()]


Parser = Callable[[str], object]


def _parser(annotation: object) -> Parser:
    kinds = typing.get_args(annotation) or (annotation,)
    if bool in kinds:
        return _flag
    return _whole if int in kinds else _number if float in kinds else str.strip


_PARSERS: dict[str, Parser] = {
    name: _parser(annotation) for name, annotation in _TYPES.items() if name != "extra"
}


def _cell(value: object) -> str:
    if value is None:
        return ""
    if isinstance(value, bool):
        return str(int(value))
    if isinstance(value, float):
        return f"{value:.6f}".rstrip("0").rstrip(".")
    return str(value)
