"""Preparing and checking manifests: what tools/prepare_manifest.py and tools/check_data.py do."""

import dataclasses
import functools
import os
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from avssl.data.container import MediaError
from avssl.data.labels import LabelFiles, place_segments
from avssl.data.manifest import Clip, Manifest, below
from avssl.data.media import read_clip_sound, read_pictures
from avssl.data.pool import Failure, guarded_map
from avssl.data.probe import probe_clip, sidecar
from avssl.data.scan import (
    COMPRESSED,
    NOT_UTF8,
    UNREAD,
    ProgressLine,
    ScanCache,
    folder_clips,
    listed_clips,
    scan_clips,
)
from avssl.data.shards import SAMPLE, shard_files
from avssl.data.shards import SUFFIX as TAR
from avssl.errors import UserError
from avssl.files import cache_folder

_FACTS = ("has_video", "has_audio", "frames", "width", "height", "rotation")


def prepare_manifest(
    source: Path,
    out: Path | None,
    *,
    workers: int,
    limit: float,
    again: bool = False,
    labels: LabelFiles | None = None,
    also: Sequence[Path] = (),
) -> Manifest:
    """Scan a folder, complete a manifest or join several, write it, and print what was found.

    Args:
        source: folder or manifest.
        out: where to write; the clips must lie below its folder.
        workers: processes; limit: seconds for one file.
        again: probe rows that are scanned already, and do not use kept results.
        labels: label files for a folder; the manifest lies in it and lists labelled clips alone.
        also: more folders or manifests, whose rows follow in one manifest above all of them.
    """
    if out is not None and out.is_dir():
        raise UserError(f"--out {out} is a folder: name a file in it, such as {out}/manifest.csv")
    if also:
        if out is None or labels is not None:
            raise UserError(
                "several sources need --out, a manifest in a folder above all of them, and go "
                "without --labels"
            )
        manifest = _joined([source, *also], out.parent)
    elif labels is not None:
        out = out or source / "manifest.csv"
        if os.path.abspath(out.parent) != os.path.abspath(source):
            raise UserError(f"--out {out} must lie in {source}, where the labelled media lie")
        listing = labels.read(source)
        print(listing.describe(), flush=True)
        manifest = listing.manifest
    elif source.is_dir():
        out = out or source / "manifest.csv"
        manifest = Manifest(out.parent, folder_clips(source, out.parent))
    elif shard_files(source):
        manifest = listed_clips(source)
        out = out or manifest.root / "manifest.csv"
        if os.path.abspath(out.parent) != os.path.abspath(manifest.root):
            raise UserError(f"--out {out} must lie in {manifest.root}, the folder of the shards")
    else:
        manifest = Manifest.read(source)
        out = out or source
        if os.path.abspath(out.parent) != os.path.abspath(source.parent):
            raise UserError(
                f"{out} would lie in another folder than {source}, whose paths are relative to its "
                "own: write it beside, under another name"
            )
    named = [row for row, clip in enumerate(manifest.clips) if not _listed_bad(clip)]
    unscanned = [row for row in named if again or not manifest.clips[row].scanned]
    clips = list(manifest.clips)
    kept = ScanCache.of(manifest.root, cache_folder())
    if again:
        kept.known.clear()
        for row in unscanned:
            clips[row] = _user_columns(_without_found_wav(clips[row]))
    scanned = scan_clips(
        manifest.root,
        [clips[row] for row in unscanned],
        workers=workers,
        limit=limit,
        progress=ProgressLine("scanned"),
        kept=kept,
    )
    for row, clip in zip(unscanned, scanned, strict=True):
        clips[row] = clip
    if labels is not None:
        clips = place_segments(clips)
    manifest = Manifest(manifest.root, clips).with_splits()
    manifest.write(out)
    _summary(manifest, out)
    return manifest


def _joined(sources: Sequence[Path], root: Path) -> Manifest:
    """The rows of several folders or manifests, each in its split, with paths relative to `root`.

    Raises:
        UserError: one does not lie below the root, or a path comes twice.
    """
    clips: list[Clip] = []
    first: dict[str, Path] = {}
    for source in sources:
        manifest = listed_clips(source).with_splits()
        try:
            inside = Path(os.path.abspath(manifest.root)).relative_to(os.path.abspath(root))
        except ValueError:
            raise UserError(
                f"{manifest.root} does not lie below {root}: a manifest can only name files below "
                "its folder"
            ) from None
        prefix = inside.as_posix()
        rows = [below(prefix, clip) if prefix != "." else clip for clip in manifest.clips]
        for clip in rows:
            if clip.path in first:
                raise UserError(
                    f"{clip.path} is in {first[clip.path]} and again in {source}: name each clip "
                    "once"
                )
        first.update({clip.path: source for clip in rows})
        clips += rows
    return Manifest(root, clips)


def check_data(source: Path, *, workers: int, limit: float) -> int:
    """Decode every clip, print each bad one with the reason; 1 if there is one, else 0."""
    manifest = listed_clips(source)
    progress = ProgressLine("checked")
    checks = guarded_map(
        functools.partial(check_clip, os.fspath(manifest.root)),
        manifest.clips,
        workers=workers,
        limit=limit,
    )
    bad: dict[int, str] = {}
    for done, (row, result) in enumerate(checks, 1):
        reason = result.reason if isinstance(result, Failure) else result
        if reason:
            bad[row] = reason
        progress(done, len(manifest.clips), len(bad))
    for row in sorted(bad):
        print(f"{manifest.clips[row].path}: {bad[row]}")
    print(f"{len(manifest.clips) - len(bad)} of {len(manifest.clips)} clips are good")
    return 1 if bad else 0


def check_clip(root: str, clip: Clip) -> str:
    """What is wrong with a clip: damage, or facts that differ from its row; "" if nothing is."""
    if _listed_bad(clip):
        return clip.reason
    probed = probe_clip(root, _user_columns(clip))
    if probed.reason:
        return probed.reason
    if not clip.scanned:
        return ""
    for name in _FACTS:
        promised, found = getattr(clip, name), getattr(probed, name)
        if promised != found:
            return f"{name} is {found}, the manifest promises {promised}: scan again"
    try:  # through the recorded reader, as training does
        if clip.has_video and clip.duration:
            read_pictures(Path(root) / clip.path, clip, [0.0, clip.duration], short_side=32)
        if clip.has_audio:
            path = Path(root) / clip.sound_path
            read_clip_sound(path, clip, start=0.0, seconds=0.5, sample_rate=16000)
    except MediaError as error:
        return str(error)
    return ""


def _listed_bad(clip: Clip) -> bool:
    """Whether the listing already said why a clip cannot be used: its name, shard or folder."""
    return (
        clip.reason == NOT_UTF8
        or Path(clip.path).suffix == TAR
        or clip.reason.startswith((SAMPLE, UNREAD, COMPRESSED))
    )


def _without_found_wav(clip: Clip) -> Clip:
    """The row without the wav of the same name that a scan found, which may be gone or new."""
    if clip.wav and clip.wav != sidecar(clip.path):
        return clip
    return dataclasses.replace(clip, wav="", sound_offset=0.0)


def _user_columns(clip: Clip) -> Clip:
    """The row without what a scan records."""
    names = ("path start end label text split wav sound_offset tar_offset tar_bytes extra").split()
    return Clip(**{name: getattr(clip, name) for name in names})


def _summary(manifest: Manifest, out: Path) -> None:
    clips: Sequence[Clip] = manifest.clips
    for clip in clips:
        if clip.reason:
            rest = [name for name in ("picture", "sound") if getattr(clip, _STREAM[name])]
            use = f" ({rest[0]} alone can be used)" if rest else ""
            print(f"{clip.path}: {clip.reason}{use}")
    both = sum(bool(clip.has_video and clip.has_audio) for clip in clips)
    silent = sum(bool(clip.has_video and not clip.has_audio) for clip in clips)
    blind = sum(bool(clip.has_audio and not clip.has_video) for clip in clips)
    print(
        f"{out}: {len(clips)} clips, {both} with picture and sound, {silent} picture only, "
        f"{blind} sound only, {len(clips) - both - silent - blind} unusable"
    )
    splits = Counter(clip.split or "none" for clip in clips)
    readers = Counter(clip.reader for clip in clips if clip.reader)
    labels = len({clip.label for clip in clips if clip.label})
    print(
        f"splits {_counts(splits)}; readers {_counts(readers)}; "
        f"{labels} label{'' if labels == 1 else 's'}"
    )
    sys.stdout.flush()


_STREAM = {"picture": "has_video", "sound": "has_audio"}


def _counts(counter: Counter[str]) -> str:
    return ", ".join(f"{name} {count}" for name, count in sorted(counter.items())) or "none"
