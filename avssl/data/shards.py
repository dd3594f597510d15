"""Tar shards in WebDataset's layout: samples of `key.jpg` (or png, mp4, wav, ...) with `key.cls`,
`key.txt` or `key.json`, read at random by where a member lies in its uncompressed tar.

The path of a member's clip is that of the tar, a slash, and its name in it; nothing is unpacked.
"""

import dataclasses
import io
import itertools
import json
import os
import re
import tarfile
from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from avssl.data.container import MediaError, Member, Source
from avssl.data.manifest import COLUMNS, SPLITS, Clip
from avssl.errors import UserError

SUFFIX = ".tar"
SAMPLE = "its sample"  # begins what is wrong with one
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_HEADER = 512  # bytes in front of a member's content
_LONGEST_NAME = 100  # bytes; longer ones are cut off in the header itself
_LARGEST_TEXT = 1 << 20  # bytes of a cls, txt or json
_TEXTS = ("cls", "txt", "json")


def shard_files(source: Path) -> list[Path]:
    """The tars that a source such as `/data/train-{000..010}.tar` or `/data/a.tar` names; none for
    any other source.

    Raises:
        UserError: one of them is not there, or a range runs backwards.
    """
    text = os.fspath(source)
    if source.suffix != SUFFIX or source.is_dir():
        return []
    parts = _RANGE.split(text)  # text, first, last, text, ...
    ranges = []
    for first, last in zip(parts[1::3], parts[2::3], strict=True):
        if int(first) > int(last):
            raise UserError(f"the range {{{first}..{last}}} of {text} runs backwards")
        ranges.append([f"{n:0{len(first)}d}" for n in range(int(first), int(last) + 1)])
    files = [
        Path("".join(itertools.chain(*zip(parts[::3], (*chosen, ""), strict=True))))
        for chosen in itertools.product(*ranges)
    ]
    missing = [file for file in files if not file.is_file()]
    if missing:
        raise UserError(
            f"{len(missing)} of the {len(files)} shards that {text} names are not there, the first "
            f"is {missing[0]}"
        )
    return files


def shard_clips(file: Path, name: str, suffixes: Collection[str]) -> list[Clip]:
    """Rows for the samples of a tar, in its order; not probed yet.

    `cls` is the label, `txt` the text, and a `json` may have `label`, `text` and `split`; its other
    values are columns of the user's. A sample without one media file, or with texts that cannot be
    read, is a row with a reason, and so is the tar itself where it is damaged or compressed.

    Args:
        name: of the tar, relative to the manifest's folder.
        suffixes: of media files, such as ".jpg".
    """
    samples: dict[str, dict[str, tarfile.TarInfo]] = {}
    texts: dict[str, dict[str, bytes]] = {}
    damage: list[Clip] = []
    size = file.stat().st_size
    try:
        with tarfile.open(file, "r:") as tar:
            for member in tar:
                if not member.isfile():
                    continue
                key, ending = _key_of(member.name)
                if not ending or PurePosixPath(key).name.startswith("."):
                    continue
                if member.offset_data + member.size > size:
                    raise tarfile.ReadError(f"{member.name} is cut off")
                samples.setdefault(key, {})[ending] = member
                if ending in _TEXTS and member.size <= _LARGEST_TEXT:
                    content = tar.extractfile(member)
                    assert content is not None
                    texts.setdefault(key, {})[ending] = content.read()
        with open(file, "rb") as raw:  # a tar ends with blocks of zeros
            raw.seek(max(0, size - _HEADER))
            if raw.read().strip(b"\0"):
                raise tarfile.ReadError("its end is missing")
    except (tarfile.TarError, OSError, EOFError) as error:
        reason = f"damaged or no plain tar ({error}); shards must not be compressed"
        damage = [Clip(path=name, has_video=False, has_audio=False, reason=reason)]
    clips = [
        _clip(name, key, members, texts.get(key, {}), suffixes) for key, members in samples.items()
    ]
    return clips + damage


def _key_of(name: str) -> tuple[str, str]:
    """WebDataset's key and ending of a member: the name up to the first dot of its last part. Names
    are not paths here, so what would lead elsewhere is left out."""
    parts = [part for part in name.split("/") if part not in ("", ".", "..")]
    if not parts:
        return "", ""
    stem, _, ending = parts[-1].partition(".")
    return "/".join([*parts[:-1], stem]), ending.lower()


def _clip(
    tar: str,
    key: str,
    members: Mapping[str, tarfile.TarInfo],
    texts: Mapping[str, bytes],
    suffixes: Collection[str],
) -> Clip:
    media = [ending for ending in members if f".{ending}" in suffixes]
    ending = media[0] if media else next(iter(members))
    member = members[ending]
    clip = Clip(f"{tar}/{key}.{ending}", tar_offset=member.offset_data, tar_bytes=member.size)
    if len(media) != 1:
        found = f"several media files ({', '.join(media)}): keep one" if media else "no media file"
        return _unusable(clip, f"{SAMPLE} holds {found}")
    try:
        return _described(clip, texts)
    except ValueError as error:
        return _unusable(clip, f"{SAMPLE} has texts that cannot be read ({error})")


def _described(clip: Clip, texts: Mapping[str, bytes]) -> Clip:
    """The row with what the sample's texts say. Raises ValueError for what cannot be read."""
    given: dict[str, str] = {}
    if "json" in texts:
        table = json.loads(texts["json"])
        if not isinstance(table, dict):
            raise ValueError("its json is no table")
        given = {
            str(name): str(value)
            for name, value in table.items()
            if isinstance(value, str | int | float)
        }
    for name, ending in (("label", "cls"), ("text", "txt")):
        if ending in texts:
            given[name] = texts[ending].decode()
    own = {name: given[name].strip() for name in ("label", "text", "split") if name in given}
    if own.get("split", "train") not in SPLITS:
        raise ValueError(f"split {own['split']!r} is none of {', '.join(SPLITS)}")
    extra = {name: value for name, value in given.items() if name not in COLUMNS}
    return dataclasses.replace(clip, **own, extra=extra)  # type: ignore[arg-type]


def _unusable(clip: Clip, reason: str) -> Clip:
    return dataclasses.replace(clip, has_video=False, has_audio=False, reason=reason)


def media_source(path: str | os.PathLike[str], clip: Clip) -> Source:
    """What is read of a clip: its file, or its member of a tar.

    Args:
        path: of the clip.

    Raises:
        MediaError: the tar is not what it was when the clip was listed.
    """
    if clip.tar_offset is None or clip.tar_bytes is None:
        return path
    tar = stored_in(Path(path), clip)
    try:
        with open(tar, "rb") as file:
            file.seek(clip.tar_offset - _HEADER)
            content = file.read(_HEADER + clip.tar_bytes)
    except OSError as error:
        raise MediaError(f"its shard cannot be read ({error.strerror})") from None
    _check(content[:_HEADER], os.fspath(path), clip)
    if len(content) < _HEADER + clip.tar_bytes:
        raise MediaError("its shard is cut off")
    return Member(content[_HEADER:], os.fspath(path))


def open_media(path: str | os.PathLike[str], clip: Clip) -> BinaryIO:
    """The clip's bytes, open for reading at any place, and no other bytes of a tar.

    Args:
        path: of the clip.

    Raises:
        MediaError: the tar is not what it was when the clip was listed.
        OSError: the file cannot be read.
    """
    if clip.tar_offset is None or clip.tar_bytes is None:
        return open(path, "rb")
    file = open(stored_in(Path(path), clip), "rb")
    try:
        file.seek(clip.tar_offset - _HEADER)
        _check(file.read(_HEADER), os.fspath(path), clip)
        if os.fstat(file.fileno()).st_size < clip.tar_offset + clip.tar_bytes:
            raise MediaError("its shard is cut off")
    except BaseException:
        file.close()
        raise
    part = _Part(file, os.fspath(path), first=clip.tar_offset, size=clip.tar_bytes)
    return io.BufferedReader(part)


class _Part(io.RawIOBase):
    """Some bytes of an open file, as a file of their own."""

    def __init__(self, file: BinaryIO, name: str, *, first: int, size: int) -> None:
        self._file, self.name, self._first, self._size = file, name, first, size
        self._at = 0

    def readable(self) -> bool:
        """It is."""
        return True

    def seekable(self) -> bool:
        """It is."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """As of files."""
        start = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if start + offset < 0:
            raise ValueError(f"cannot seek to {start + offset}")
        self._at = start + offset
        return self._at

    def readinto(self, buffer: Any) -> int:
        """As of files: 0 at the end."""
        view = memoryview(buffer)[: max(0, self._size - self._at)]
        self._file.seek(self._first + self._at)
        count = self._file.readinto(view)  # type: ignore[attr-defined]
        self._at += count
        return int(count)

    def close(self) -> None:
        """And the file that it is a part of."""
        self._file.close()
        super().close()


def _check(header: bytes, path: str, clip: Clip) -> None:
    """Raises MediaError unless this is the header in front of the clip's member."""
    try:
        found = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except (tarfile.TarError, ValueError):
        raise MediaError("its shard has changed: scan again") from None
    assert clip.tar_bytes is not None
    short = found.name.isascii() and len(found.name) < _LONGEST_NAME
    if not 0 <= clip.tar_bytes == found.size or (short and not _same(found.name, path)):
        raise MediaError("its shard has changed: scan again")


def _same(name: str, path: str) -> bool:
    key, ending = _key_of(name)
    return path.endswith(f"/{key}.{ending}") or "?" in name  # pax has that for what is not ASCII


def stored_in(path: Path, clip: Clip) -> Path:
    """The file on disk that holds a clip: itself, or the tar."""
    if clip.tar_offset is None:
        return path
    tars = (tar for tar in reversed(path.parents) if tar.suffix == SUFFIX and tar.is_file())
    return next(tars, path)
