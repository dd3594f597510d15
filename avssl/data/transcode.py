"""Preparing clips: small H.264 copies with near keyframes and a wav beside, for fast reading; of
stills, small JPEGs.

Letters: H W height and width in pixels.
"""

import dataclasses
import functools
import json
import os
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import numpy as np

from avssl.data.container import MediaError, Source, opened
from avssl.data.manifest import Clip, Manifest, hash_split
from avssl.data.media import read_clip_sound, read_pictures, scaled_size
from avssl.data.pictures import EARLY, converted, shown_pictures
from avssl.data.pool import Failure, guarded_map
from avssl.data.probe import probe_clip
from avssl.data.scan import ProgressLine, ScanCache, listed_clips
from avssl.data.shards import media_source, stored_in
from avssl.data.stills import READER
from avssl.errors import UserError
from avssl.files import write_whole

_CLOCK = 90000  # Hz: holds the times of all usual frame rates exactly
_JPEG_QUALITY = 92
_SETTINGS, _DONE = ".prepared.json", ".prepared.jsonl"


@dataclass(frozen=True)
class Target:
    """What prepared clips are like."""

    short_side: int = 256  # pixels; smaller pictures keep their size
    fps: float | None = None  # pictures per second; None: the times stay as they are
    keyframes: int = 25  # pictures from one keyframe to the next
    quality: int = 23  # x264's crf
    sample_rate: int = 16000  # Hz


@dataclass(frozen=True)
class _Job:
    source: str
    clip: Clip
    target: str
    name: str  # path of the prepared file, without suffix, relative to the target folder


def prepare_clips(
    source: Path, target: Path, settings: Target, *, workers: int, limit: float
) -> int:
    """Prepare all clips of a folder or manifest and write target/manifest.csv; 1 if one failed.

    Files that an earlier, interrupted call finished are not made again.

    Raises:
        UserError: the target holds clips with other settings, or is the source.
    """
    if settings.short_side > 8192 or settings.sample_rate > 384_000 or (settings.fps or 1) > 1000:
        raise UserError("--short-side is at most 8192, --sample-rate 384000 and --fps 1000")
    manifest = listed_clips(source)
    if os.path.realpath(target) == os.path.realpath(manifest.root):
        raise UserError(f"{target} is the folder of the clips themselves: name another one")
    _claim(target, settings)
    jobs = _jobs(manifest, target)
    kept = ScanCache(target / _DONE, target)
    prepared = {path: row for path, job in jobs.items() if (row := _finished(job, kept))}
    failures = {path: clip.reason for path, clip in prepared.items() if clip.reason}
    paths = [path for path in jobs if path not in prepared]
    if prepared:
        print(f"{len(prepared)} of {len(jobs)} files are prepared already")
    progress = ProgressLine("prepared")
    results = guarded_map(
        functools.partial(_prepare, settings),
        [jobs[path] for path in paths],
        workers=workers,
        limit=limit,
    )
    for done, (position, result) in enumerate(results, 1):
        path = paths[position]
        if isinstance(result, Failure):
            failures[path] = result.reason
        else:
            prepared[path] = result
            kept.put(Clip(path=result.path), result)
            if result.reason:
                failures[path] = result.reason
        progress(done, len(paths), len(failures))
    rows = [_row(clip, prepared[clip.path]) for clip in manifest.clips if clip.path in prepared]
    if rows:
        Manifest(target, rows).write(target / "manifest.csv")
    for path, reason in sorted(failures.items()):
        use = " (prepared without it)" if path in prepared else ""
        print(f"{path}: {reason}{use}")
    print(f"{target / 'manifest.csv'}: {len(prepared)} of {len(jobs)} files prepared")
    return 1 if failures else 0


def transcode(path: Source, clip: Clip, target: Path, settings: Target) -> None:
    """Write the pictures of one file as H.264 without B-frames; whole or not at all.

    Args:
        path: what is read; clip: its scanned row.
        target: an .mp4.
    """
    import av

    width, height = scaled_size(clip, min(settings.short_side, clip.width or 0, clip.height or 0))
    width, height = max(2, width - width % 2), max(2, height - height % 2)
    rate = Fraction(settings.fps or clip.fps or 25).limit_denominator(1001)
    options = {
        "crf": str(settings.quality),
        "preset": "veryfast",
        "g": str(settings.keyframes),
        "bf": "0",
        "sc_threshold": "0",
        "tune": "fastdecode",  # a quarter less time to read for 6% more bytes
    }
    partial = target.with_name(target.name + ".part")
    with opened(path) as source, av.open(str(partial), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=rate, options=options)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        stream.codec_context.time_base = stream.time_base = Fraction(1, _CLOCK)
        stream.codec_context.thread_count = 1
        for time, frame in _regular(shown_pictures(source), settings.fps, clip.duration or 0.0):
            image = converted(frame, size=(width, height), rotation=clip.rotation)  # [H, W, 3]
            copy = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            copy.pts, copy.time_base = round(time * _CLOCK), Fraction(1, _CLOCK)
            out.mux(stream.encode(copy))
        out.mux(stream.encode())
    os.replace(partial, target)


def _regular(shown, fps: float | None, duration: float):  # type: ignore[no-untyped-def]
    """(time from the first picture, picture), at `fps` pictures per second where it is given."""
    zero: float | None = None
    number = 0
    previous = None
    for time, frame in shown:
        zero = time if zero is None else zero
        if fps is None:
            yield time - zero, frame
            continue
        while previous is not None and number / fps < time - zero - EARLY:
            yield number / fps, previous
            number += 1
        previous = frame
    while fps is not None and previous is not None and number / fps < duration - EARLY:
        yield number / fps, previous
        number += 1


def _finished(job: _Job, kept: ScanCache) -> Clip | None:
    """The row of a copy that an earlier call made and that is newer than its source."""
    for suffix in (".mp4", ".wav", ".jpg"):
        done = kept.get(Clip(path=job.name + suffix))
        if done is None:
            continue
        source, copy = Path(job.source) / job.clip.path, Path(job.target) / done.path
        source = stored_in(source, job.clip)
        if source.exists() and copy.stat().st_mtime >= source.stat().st_mtime:
            return done
    return None


def _prepare(settings: Target, job: _Job) -> Clip:
    """In a helper process: make one file's copies; the row of the copy."""
    folder = Path(job.target)
    video, wav, still = (folder / f"{job.name}{suffix}" for suffix in (".mp4", ".wav", ".jpg"))
    source = Path(job.source) / job.clip.path
    clip = probe_clip(job.source, job.clip)
    if not clip.has_video and not clip.has_audio:
        raise MediaError(clip.reason)
    video.parent.mkdir(parents=True, exist_ok=True)
    if clip.has_audio:
        _write_wav(Path(job.source), clip, wav, settings.sample_rate)
    if clip.reader == READER:
        _write_still(source, clip, still, settings)
    elif clip.has_video:
        transcode(media_source(source, clip), clip, video, settings)
    made = still if clip.reader == READER else video if clip.has_video else wav
    done = probe_clip(folder, Clip(path=made.relative_to(folder).as_posix()))
    return dataclasses.replace(done, reason="; ".join(filter(None, [clip.reason, done.reason])))


def _write_still(path: Path, clip: Clip, target: Path, settings: Target) -> None:
    from PIL import Image

    side = min(settings.short_side, clip.width or 0, clip.height or 0)
    picture = read_pictures(path, clip, [0.0], short_side=side)[0]  # [H, W, 3]
    partial = target.with_name(target.name + ".part")
    Image.fromarray(picture).save(partial, format="JPEG", quality=_JPEG_QUALITY, subsampling=0)
    os.replace(partial, target)


def _write_wav(root: Path, clip: Clip, target: Path, sample_rate: int) -> None:
    import soundfile

    seconds = clip.sound_offset + (clip.sound_duration or 0.0)
    path = root / clip.sound_path
    sound = read_clip_sound(path, clip, start=0.0, seconds=seconds, sample_rate=sample_rate)
    partial = target.with_name(target.name + ".part")
    soundfile.write(partial, sound, sample_rate, subtype="PCM_16", format="WAV")
    os.replace(partial, target)


def _claim(target: Path, settings: Target) -> None:
    """Note the settings in the target folder, or hold them against the ones noted there."""
    file = target / _SETTINGS
    wanted = dataclasses.asdict(settings)
    if file.exists():
        try:
            noted = json.loads(file.read_text())
        except ValueError:
            raise UserError(f"{file} is damaged: remove {target}, or name another folder") from None
        if noted != wanted:
            raise UserError(
                f"{target} holds clips prepared with {noted}, not {wanted}: name another folder"
            )
        return
    target.mkdir(parents=True, exist_ok=True)
    write_whole(file, json.dumps(wanted, indent=1) + "\n")


def _jobs(manifest: Manifest, target: Path) -> dict[str, _Job]:
    """One job for each file; names that would fall together keep their suffix."""
    files = {clip.path: clip for clip in reversed(manifest.clips)}
    stems: dict[str, int] = {}
    for path in files:
        stem = str(Path(path).with_suffix(""))
        stems[stem] = stems.get(stem, 0) + 1

    def name(path: str) -> str:
        stem = str(Path(path).with_suffix(""))
        return stem if stems[stem] == 1 else path

    return {
        path: _Job(os.fspath(manifest.root), clip, os.fspath(target), name(path))
        for path, clip in reversed(files.items())
    }


def _row(clip: Clip, prepared: Clip) -> Clip:
    """The prepared file's row: recorded columns of the copy, the user's columns of the source."""
    return dataclasses.replace(
        prepared,
        start=clip.start,
        end=clip.end,
        label=clip.label,
        text=clip.text,
        split=clip.split or hash_split(clip.path),
        extra=clip.extra,
    )
