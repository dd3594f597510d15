"""Preparing crops of the mouth for all clips of a corpus: what tools/prepare_lips.py does."""

import csv
import dataclasses
import functools
import io
import itertools
import os
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avssl.data.container import MediaError
from avssl.data.manifest import Clip, Manifest
from avssl.data.pool import Failure, guarded_map
from avssl.data.probe import probe_clip
from avssl.data.scan import ProgressLine
from avssl.data.stills import READER as STILL
from avssl.errors import UserError
from avssl.files import locked, write_whole
from avssl.lips.crops import GAP, cropped
from avssl.lips.frames import RATE
from avssl.lips.mesh import model_files
from avssl.lips.points import landmark_file
from avssl.lips.record import Piece, Record, claim
from avssl.lips.sheet import contact_sheet, points_file
from avssl.lips.write import sound_row, write_sound, write_video
from avssl.optional import need

_SHOWN = 10  # skipped clips that are printed one by one; of more the kinds of reasons


@dataclass(frozen=True)
class Settings:
    """What prepared crops are like."""

    gap: int = GAP  # pictures in a row in which the face may be missing
    longest: float = 24.0  # s: longer clips are cut where that can be done
    quality: int = 0  # x264's crf; 0: lossless
    landmarks: str = ""  # folder of given landmarks; "": faces are found


@dataclass(frozen=True)
class _Job:
    source: str
    target: str
    rows: tuple[Clip, ...]  # of one file
    name: str  # path of the crops, without suffix, relative to the target folder


def prepare_lips(
    manifest: Manifest,
    target: Path,
    settings: Settings,
    *,
    workers: int,
    limit: float,
    rows: int = 30,
    retry: bool = False,
) -> None:
    """Prepare all clips; write manifest.csv, skipped.csv and sheet.jpg.

    Files that an earlier, interrupted call finished are not made again.

    Args:
        manifest: clips with splits.
        limit: seconds for one file.
        rows: clips on the contact sheet.
        retry: try clips again that an earlier call skipped.

    Raises:
        UserError: no clip could be prepared, the target holds other crops, is in the source folder
            or in use by another process, or a package is missing.
    """
    own, clips = Path(os.path.realpath(target)), Path(os.path.realpath(manifest.root))
    if own == clips or clips in own.parents:
        where = "the folder of the clips themselves" if own == clips else f"inside {manifest.root}"
        raise UserError(
            f"{target} is {where}, whose clips would be mixed with their crops: name another folder"
        )
    if not settings.landmarks:
        model_files()
        need("openvino", extra="lips", purpose="finding faces")
    claim(target, _noted(settings, target), manifest.root)
    with locked(target, f"another process prepares {target}: wait for it"):
        _prepare_all(
            manifest, target, settings, workers=workers, limit=limit, rows=rows, retry=retry
        )


def _prepare_all(
    manifest: Manifest,
    target: Path,
    settings: Settings,
    *,
    workers: int,
    limit: float,
    rows: int,
    retry: bool,
) -> None:
    """What `prepare_lips` does in its own folder."""
    unusable = [clip for clip in manifest.clips if clip.reason and clip.has_video is False]
    jobs = _jobs(manifest, target)
    record = Record(target, manifest.root, settings.landmarks)
    pieces = {job.name: known for job in jobs if (known := record.get(job.rows, retry=retry))}
    if pieces:
        print(f"{len(pieces)} of {len(jobs)} files are prepared already")
    todo = [job for job in jobs if job.name not in pieces]
    pieces |= _prepared(todo, settings, record, workers=workers, limit=limit)
    found = [(job, piece) for job in jobs for piece in pieces[job.name]]
    made = [_row(job.rows[piece.row], piece) for job, piece in found if piece.clip is not None]
    if made:
        Manifest(target, made).write(target / "manifest.csv")
    skipped = [(clip, Piece(0, None, None, reason=clip.reason)) for clip in unusable]
    skipped += [(job.rows[piece.row], piece) for job, piece in found if piece.clip is None]
    _write_skipped(target / "skipped.csv", skipped)
    if made:
        contact_sheet(target, made, rows=rows)
    _summary(target, made, skipped)
    if not made:
        raise UserError(
            f"none of the clips in {manifest.root} could be prepared: {target / 'skipped.csv'} has "
            "the reasons"
        )


def _noted(settings: Settings, target: Path) -> dict[str, object]:
    """The settings as the target folder keeps them: both folders may be moved together."""
    noted = dataclasses.asdict(settings)
    if settings.landmarks:
        noted["landmarks"] = Path(os.path.relpath(settings.landmarks, target)).as_posix()
    return noted


def _jobs(manifest: Manifest, target: Path) -> list[_Job]:
    """One job for each file; names that could fall together, with another file's or with those of
    the parts of a long one, keep their suffix."""
    files: dict[str, list[Clip]] = {}
    for clip in manifest.clips:
        if not (clip.reason and clip.has_video is False):
            files.setdefault(clip.path, []).append(clip)
    stems = Counter(str(Path(path).with_suffix("")) for path in files)
    jobs = []
    for path, rows in files.items():
        stem = str(Path(path).with_suffix(""))
        alone = stems[stem] == 1 and stem not in files and not re.search(r"@\d{3,}$", stem)
        name = stem if alone else path
        jobs.append(_Job(os.fspath(manifest.root), os.fspath(target), tuple(rows), name))
    return jobs


def _prepared(
    jobs: list[_Job], settings: Settings, record: Record, *, workers: int, limit: float
) -> dict[str, list[Piece]]:
    """What came of each file, by name; kept in the record as it gets ready."""
    pieces: dict[str, list[Piece]] = {}
    progress, faults = ProgressLine("prepared"), 0
    results = guarded_map(functools.partial(_prepare, settings), jobs, workers=workers, limit=limit)
    for done, (position, result) in enumerate(results, 1):
        job = jobs[position]
        if isinstance(result, Failure):
            result = [Piece(row, None, None, reason=result.reason) for row in range(len(job.rows))]
        else:  # a file that took too long or crashed its reader is tried again next time
            record.put(job.rows, result)
        pieces[job.name] = result
        faults += any(piece.clip is None for piece in result)
        progress(done, len(jobs), faults)
    return pieces


def _prepare(settings: Settings, job: _Job) -> list[Piece]:
    """In a helper process: the crops of one file, or why there are none."""
    import torch

    torch.set_num_threads(1)
    root, first = Path(job.source), job.rows[0]
    other = bool(first.wav) and not first.wav.lower().endswith(".wav")
    probed = probe_clip(root, dataclasses.replace(first, wav="" if other else first.wav))
    if not probed.has_video or probed.reader == STILL:
        reason = probed.reason or ("is a still" if probed.has_video else "has no picture")
        return [Piece(row, None, None, reason=reason) for row in range(len(job.rows))]
    sound, note = probed, probed.reason
    if other:
        try:
            sound = sound_row(root, dataclasses.replace(probed, wav=first.wav))
        except MediaError as error:
            note = str(error)
    wanted = [
        (row, start, end)
        for row, clip in enumerate(job.rows)
        for start, end in _stretches(clip, probed.duration or 0.0, settings.longest)
    ]
    result = []
    for number, (row, start, end) in enumerate(wanted):
        name = job.name if len(wanted) == 1 else f"{job.name}@{number:03d}"
        clip = dataclasses.replace(probed, start=start, end=end)
        piece = Piece(row, start, end, reason=note)
        try:
            made = _piece(settings, job, clip, sound, name)
            piece = dataclasses.replace(piece, clip=made)
        except MediaError as error:
            piece = dataclasses.replace(piece, reason=str(error))
        result.append(piece)
    return result


def _stretches(
    clip: Clip, duration: float, longest: float
) -> list[tuple[float | None, float | None]]:
    """What is prepared of a row: all of it, or even parts of a long one without a text."""
    start, end = clip.start or 0.0, min(duration, clip.end or duration)
    if clip.text or end - start <= longest:
        return [(clip.start, clip.end)]
    parts = int(np.ceil((end - start) / longest))
    edges = [round(float(edge), 2) for edge in np.linspace(start, end, parts + 1)]
    return list(itertools.pairwise(edges))


def _piece(settings: Settings, job: _Job, clip: Clip, sound: Clip, name: str) -> Clip:
    """Write one clip's crops and sound; its scanned row."""
    given = landmark_file(Path(settings.landmarks), clip.path) if settings.landmarks else None
    root, folder = Path(job.source), Path(job.target)
    mouth = cropped(root / clip.path, clip, gap=settings.gap, landmarks=given)
    video = folder / f"{name}.mp4"
    video.parent.mkdir(parents=True, exist_ok=True)
    if sound.has_audio:
        write_sound(
            folder / f"{name}.wav",
            root,
            sound,
            start=clip.start or 0.0,
            pictures=len(mouth.crops),
        )
    points = points_file(folder, f"{name}.mp4")
    points.parent.mkdir(parents=True, exist_ok=True)
    np.save(points, mouth.landmarks.astype(np.float16))
    write_video(video, mouth.crops, quality=settings.quality)
    return probe_clip(folder, Clip(path=video.relative_to(folder).as_posix()))


def _row(source: Clip, piece: Piece) -> Clip:
    """The crops' row: recorded columns of the crops, the user's columns of the source."""
    assert piece.clip is not None
    extra = dict(source.extra)
    if piece.start is not None or piece.end is not None:
        extra |= {
            "source_start": "" if piece.start is None else f"{piece.start:g}",
            "source_end": "" if piece.end is None else f"{piece.end:g}",
        }
    return dataclasses.replace(
        piece.clip,
        label=source.label,
        text=source.text,
        split=source.split,
        reason=piece.reason,
        extra=extra,
    )


def _write_skipped(path: Path, skipped: Sequence[tuple[Clip, Piece]]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path", "start", "end", "reason"])
    for clip, piece in skipped:
        writer.writerow([clip.path, piece.start, piece.end, piece.reason])
    write_whole(path, text.getvalue())


def _summary(target: Path, made: list[Clip], skipped: list[tuple[Clip, Piece]]) -> None:
    if len(skipped) <= _SHOWN:
        for clip, piece in skipped:
            print(f"{clip.path}: {piece.reason}")
    else:
        kinds = Counter(re.sub(r"\d+(\.\d+)?", "N", piece.reason) for _, piece in skipped)
        for kind, count in kinds.most_common(_SHOWN):
            print(f"{count} clips: {kind}")
        print(f"each with its reason: {target / 'skipped.csv'}")
    hours = sum(clip.frames or 0 for clip in made) / RATE / 3600
    silent = sum(not clip.has_audio for clip in made)
    splits = Counter(clip.split for clip in made)
    print(
        f"{target}: {len(made)} clips prepared ({hours:.2f} h, {silent} without sound), "
        f"{len(skipped)} skipped; splits "
        + (", ".join(f"{name} {count}" for name, count in sorted(splits.items())) or "none")
    )
