"""Scanning folders and manifests: every file is probed once, in parallel, and the result kept."""

import dataclasses
import functools
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from avssl.data.manifest import Clip, Manifest
from avssl.data.pool import Failure, guarded_map
from avssl.data.probe import probe_clip, sidecar, sidecars
from avssl.data.shards import SUFFIX as TAR
from avssl.data.shards import shard_clips, shard_files, stored_in
from avssl.data.stills import SUFFIXES
from avssl.errors import UserError

# of files that hold video or sound; those of pictures are `stills.SUFFIXES`
MEDIA = frozenset(
    ".mp4 .m4v .mov .mkv .webm .avi .mpg .mpeg .ts .mts .flv .wmv .3gp .ogv "
    ".wav .flac .mp3 .m4a .aac .ogg .opus".split()
)
TIME_LIMIT = 120.0  # s for one file
_SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
PACKED = (*(f"{TAR}{suffix}" for suffix in ".gz .bz2 .xz .zst .lz4".split()), ".tgz")
COMPRESSED = "shards must not be compressed: decompress it"
UNREAD = "this folder cannot be read"  # begins what is wrong with one
NOT_UTF8 = "its name is not UTF-8: rename it"
_RECORDED = (
    "reader has_video has_audio duration fps frames width height rotation wav sound_offset "
    "sound_duration reason"
).split()
_VERSION = 4  # of what a probe records; older kept results are not used

# Called with the number done, the total and the number of files with a fault.
Progress = Callable[[int, int, int], None]


def folder_clips(folder: str | os.PathLike[str], root: str | os.PathLike[str]) -> list[Clip]:
    """Rows for the media and picture files below a folder, sorted, and for the samples of its tar
    shards (`avssl.data.shards`); not probed yet.

    The first folder below is the label where at least two of them hold files. Where all files lie
    in folders called train, val and test (or valid, validation), these are the splits, and the
    folders in them the labels. A wav beside a file of the same name is that file's sound and no
    clip of its own, and neither is a picture beside one. Hidden files are left out, and so are
    linked folders that are above `folder` or come up otherwise. A file whose name is not UTF-8
    is a row with a reason, its odd bytes as \\x.. in the path, and so is a folder that cannot be
    read and a compressed shard beside others, which say nothing of splits and labels.

    Args:
        folder: where to look.
        root: the manifest's folder, at or above `folder`.

    Raises:
        UserError: no such folder, no media or picture in it, or it does not lie below the root.
    """
    folder, root = Path(folder), Path(root)
    if not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    try:
        prefix = Path(os.path.abspath(folder)).relative_to(os.path.abspath(root))
    except ValueError:
        raise UserError(
            f"{folder} does not lie below {root}: a manifest can only name files below its folder"
        ) from None
    paths, packed = [], []
    unread: list[OSError] = []
    for where, files in _folders(folder, unread):
        inside = Path(where).relative_to(folder)
        for name in sorted(files):
            suffix = Path(name).suffix.lower()
            if (suffix in MEDIA | SUFFIXES or suffix == TAR) and not name.startswith("."):
                paths.append((inside / name).as_posix())
            elif name.lower().endswith(PACKED) and not name.startswith("."):
                packed.append((inside / name).as_posix())
    shards = any(Path(path).suffix.lower() == TAR for path in paths)
    paths = _without_companions(paths)
    splits, labels = _splits_and_labels(paths)
    rows: list[Clip] = []
    for path, label, split in zip(paths, labels, splits, strict=True):
        name = (prefix / path).as_posix()
        if Path(path).suffix.lower() == TAR:
            rows += _members(folder / path, name, label, split)
        else:
            rows.append(_row(Clip(path=name, label=label, split=split)))
    left_out = {
        Path(error.filename).relative_to(folder).as_posix(): f"{UNREAD} ({error.strerror})"
        for error in unread
    }
    if shards or not rows:  # beside media files it is what these were unpacked from
        left_out |= dict.fromkeys(packed, COMPRESSED)
    if not rows and left_out:
        path, reason = next(iter(left_out.items()))
        raise UserError(f"no clip was found in {folder}; {folder / path}: {reason}")
    if not rows:
        known = " ".join(sorted(MEDIA | SUFFIXES | {TAR}))
        raise UserError(
            f"no media file or picture lies in {folder} or below; files that count: {known}"
        )
    rows += [
        _row(Clip((prefix / path).as_posix(), has_video=False, has_audio=False, reason=reason))
        for path, reason in left_out.items()
    ]
    return _on_sides(rows, prefix)


def _on_sides(rows: list[Clip], prefix: Path) -> list[Clip]:
    """Gives what is left out a split where all others have one, that of its folder or train: what
    cannot be read says of none, and a manifest has them in all rows or in none."""
    given = [bool(clip.split) for clip in rows if not clip.reason]
    if not given or not all(given):
        return rows
    return [
        clip
        if clip.split
        else dataclasses.replace(
            clip, split=_split_of(f"{Path(clip.path).relative_to(prefix).as_posix()}/") or "train"
        )
        for clip in rows
    ]


def _members(tar: Path, name: str, label: str = "", split: str = "") -> list[Clip]:
    """Rows for the samples of a tar; what they say themselves goes before what its folders say."""
    return [
        _row(dataclasses.replace(clip, label=clip.label or label, split=clip.split or split))
        for clip in shard_clips(tar, name, MEDIA | SUFFIXES)
    ]


def _without_companions(paths: list[str]) -> list[str]:
    """Sorted, without pictures and wavs that only go with a file of the same name."""
    stills = {path for path in paths if Path(path).suffix.lower() in SUFFIXES}
    media = [path for path in paths if path not in stills]
    stems = {str(Path(path).with_suffix("")) for path in media}
    covers = {path for path in stills if str(Path(path).with_suffix("")) in stems}
    return sorted(set(paths) - covers - sidecars(media))


def _splits_and_labels(paths: Sequence[str]) -> tuple[list[str], list[str]]:
    """What the folders say of each file; "" for nothing."""
    parts = [path.split("/") for path in paths]
    splits = [_split_of(path) for path in paths]
    if all(splits):
        parts = [part[1:] for part in parts]
    if not all(splits) or len(set(splits)) < 2:  # one alone: all by path
        splits = [""] * len(paths)
    folders = [part[0] if len(part) > 1 else "" for part in parts]
    labels = folders if len(set(folders) - {""}) >= 2 else [""] * len(paths)
    return splits, labels


def _split_of(path: str) -> str:
    """The split that the first folder of a path is called after; "" for none."""
    first, slash, _ = path.partition("/")
    return _SPLIT_FOLDERS.get(first.lower(), "") if slash else ""


def _folders(source: Path, unread: list[OSError]) -> Iterator[tuple[str, list[str]]]:
    """Each folder that is not hidden, with its files: first those below the source, then links.

    unread: takes the errors of those that cannot be read.
    """
    todo, seen = [os.fspath(source)], set[Path]()
    above = set(Path(source).resolve().parents)  # of the source and of what links lead to
    for first in todo:  # grows
        if Path(first).resolve() in above:
            continue
        above |= set(Path(first).resolve().parents)
        for where, folders, files in os.walk(first, onerror=unread.append):
            real = Path(where).resolve()
            if real in seen:
                folders.clear()
                continue
            seen.add(real)
            folders[:] = sorted(name for name in folders if not name.startswith("."))
            paths = [os.path.join(where, name) for name in folders]
            todo += [path for path in paths if os.path.islink(path)]
            yield where, files


def _row(clip: Clip) -> Clip:
    """A clip that is to be probed, or that cannot be used for its name."""
    try:
        clip.path.encode()
    except UnicodeEncodeError:
        path, label = (
            os.fsencode(text).decode(errors="backslashreplace") for text in (clip.path, clip.label)
        )
        return dataclasses.replace(
            clip, path=path, label=label, has_video=False, has_audio=False, reason=NOT_UTF8
        )
    return clip


def listed_clips(source: Path) -> Manifest:
    """The rows of a manifest, or of the manifest.csv in a folder, or of a folder's media files, or
    of the samples of shards, `a.tar` or `a-{000..010}.tar`, in the folder above all of them.

    Raises:
        UserError: there is none of these.
    """
    shards = shard_files(source)
    if shards:
        root = Path(os.path.commonpath([os.path.abspath(file.parent) for file in shards]))
        names = [Path(os.path.abspath(file)).relative_to(root).as_posix() for file in shards]
        rows = [_members(file, name) for file, name in zip(shards, names, strict=True)]
        if not any(rows):
            raise UserError(f"{source} holds no sample: no member has a name such as key.jpg")
        return Manifest(root, _on_sides([clip for part in rows for clip in part], Path()))
    if source.is_dir() and (source / "manifest.csv").is_file():
        source = source / "manifest.csv"
    if source.is_dir():
        return Manifest(source, folder_clips(source, source))
    return Manifest.read(source)


def scan_clips(
    root: str | os.PathLike[str],
    clips: Sequence[Clip],
    *,
    workers: int,
    limit: float = TIME_LIMIT,
    progress: Progress | None = None,
    kept: "ScanCache | None" = None,
) -> list[Clip]:
    """The clips with their recorded columns filled, in the same order.

    Args:
        root: folder of the clips' paths.
        workers: processes.
        limit: seconds for one file.
        kept: results of earlier scans, used for files that did not change.
    """
    result = list(clips)
    todo: dict[tuple[str, str], list[int]] = {}  # rows of each file
    for row, clip in enumerate(clips):
        known = kept.get(clip) if kept else None
        if known is not None:
            result[row] = known
        else:
            todo.setdefault((clip.path, clip.wav), []).append(row)
    rows = list(todo.values())
    done = faults = 0
    probes = guarded_map(
        functools.partial(probe_clip, os.fspath(root)),
        [clips[group[0]] for group in rows],
        workers=workers,
        limit=limit,
    )
    for position, probed in probes:
        if isinstance(probed, Failure):
            first = clips[rows[position][0]]
            probed = dataclasses.replace(
                first, has_video=False, has_audio=False, reader="", reason=probed.reason
            )
        elif kept:  # a file that took too long or crashed its reader is tried again next time
            kept.put(clips[rows[position][0]], probed)
        recorded = {name: getattr(probed, name) for name in _RECORDED}
        for row in rows[position]:
            result[row] = dataclasses.replace(clips[row], **recorded)
        done += 1
        faults += bool(probed.reason)
        if progress:
            progress(done, len(rows), faults)
    return result


class ScanCache:
    """Results of scans of one folder, for files whose size and time of change stayed the same.

    Args:
        file: a JSON-lines file, made when needed.
        root: folder of the clips' paths.
    """

    def __init__(self, file: Path, root: Path) -> None:
        self.file, self.root = file, root
        self.known: dict[str, dict[str, object]] = {}
        try:
            with open(file, encoding="utf-8") as lines:
                for line in lines:
                    try:
                        entry = json.loads(line)
                        self.known[entry["key"]] = entry["recorded"]
                    except (ValueError, KeyError, TypeError):
                        continue  # a line cut off by an interrupted scan
        except OSError:
            pass

    @classmethod
    def of(cls, root: Path, cache: Path) -> "ScanCache":
        """The cache of a folder."""
        name = hashlib.sha256(os.fsencode(os.path.abspath(root))).hexdigest()[:16]
        return cls(cache / "scans" / f"{name}.jsonl", root)

    def get(self, clip: Clip) -> Clip | None:
        """The clip with its recorded columns, if they are known."""
        recorded = self.known.get(self._key(clip))
        return None if recorded is None else dataclasses.replace(clip, **recorded)  # type: ignore[arg-type]

    def put(self, clip: Clip, probed: Clip) -> None:
        """Keep the result for a clip."""
        recorded = {name: getattr(probed, name) for name in _RECORDED}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with open(self.file, "a", encoding="utf-8") as lines:
            lines.write(json.dumps({"key": self._key(clip), "recorded": recorded}) + "\n")

    def _key(self, clip: Clip) -> str:
        stamps = [_VERSION, clip.path, clip.tar_offset]
        for path in (clip.path, clip.wav or sidecar(clip.path)):
            try:
                status = os.stat(stored_in(self.root / path, clip))
                stamps += [path, status.st_size, status.st_mtime_ns]
            except OSError:
                stamps += [path, -1, -1]
        return json.dumps(stamps)


class ProgressLine:
    """A line on stderr with count, rate and time left: rewritten on a terminal, else every 10 s."""

    def __init__(self, what: str, *, unit: str = "files") -> None:
        self.what, self.unit, self.begin, self.shown = what, unit, time.monotonic(), -1e9

    def __call__(self, done: int, total: int, faults: int | None = None) -> None:
        now = time.monotonic()
        live = sys.stderr.isatty()
        if done < total and now - self.shown < (0.2 if live else 10):
            return
        self.shown = now
        rate = done / max(now - self.begin, 1e-6)
        left = int((total - done) / rate)
        text = (
            f"{self.what} {done}/{total}, {rate:.1f} {self.unit}/s, "
            f"{left // 60}:{left % 60:02d} left"
        )
        if faults is not None:
            text += f", {faults} with faults"
        end = "\r" if live and done < total else "\n"
        print(text + (" " * 8 if live else ""), end=end, file=sys.stderr, flush=True)
