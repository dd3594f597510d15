"""Label files in their published formats (AudioSet, Kinetics and others) as manifests.

A label file lists clips by an identifier; the media lie in a folder under names made from it. The
rows that result have `label`, `split` and, where the format has them, the columns `fold`,
`segment_start` and `segment_end` (seconds in the original video).

A clip with several labels (AudioSet) has them in `label`, separated by ";": whoever reads such a
manifest takes the label apart with `labels_of`.
"""

import dataclasses
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from avssl.data.label_formats import CLASS_NAMES, FORMATS, KINETICS_SOUNDS, Entry, label_text
from avssl.data.manifest import SPLITS, Clip, Manifest
from avssl.data.scan import folder_clips
from avssl.errors import UserError

SEPARATOR = ";"


def labels_of(clip: Clip) -> list[str]:
    """The labels of a row, of which there may be several."""
    return [name.strip() for name in clip.label.split(SEPARATOR) if name.strip()]


@dataclass
class Listing:
    """The rows found, not scanned yet, and what else the label files and the folder hold.

    missing: names of listed clips without a file. unlisted: media files that no row names.
    other_classes: rows left out because only some classes are asked for. unknown: asked for, but in
    no label file. ambiguous: for each name that several files have, those files, the one that is
    taken first. unnamed: label files whose labels are identifiers, for want of a list of names.
    """

    manifest: Manifest
    missing: list[str]
    unlisted: int
    other_classes: int
    unknown: list[str]
    ambiguous: list[list[str]] = field(default_factory=list)
    unnamed: list[str] = field(default_factory=list)

    def describe(self, *, shown: int = 10) -> str:
        """One line of counts, then the first names that have no file, and what else is doubtful."""
        counts = f"{len(self.manifest.clips)} labelled clips found, {len(self.missing)} listed "
        counts += f"clips have no file, {self.unlisted} files are not listed"
        if self.other_classes:
            counts += f", {self.other_classes} listed clips are of other classes"
        lines = [counts, *(f"  no file: {name}" for name in self.missing[:shown])]
        if len(self.missing) > shown:
            lines.append(f"  and {len(self.missing) - shown} more")
        for taken, *others in self.ambiguous[:shown]:
            lines.append(f"  several files of one name: {taken} is taken, not {', '.join(others)}")
        if len(self.ambiguous) > shown:
            lines.append(f"  and {len(self.ambiguous) - shown} more names with several files")
        lines += [
            f"  labels of {name} are identifiers such as /m/0bt9lr: put {CLASS_NAMES} beside it"
            for name in self.unnamed
        ]
        if self.unknown:
            lines.append(f"  classes in no label file: {', '.join(self.unknown)}")
        return "\n".join(lines)


def read_labels(
    files: Sequence[str],
    folder: Path,
    *,
    format: str,
    classes: Sequence[str] | None = None,
) -> Listing:
    """The media files of a folder with the labels that files of a published format give them.

    Args:
        files: label files; "train=FILE" (val, test) says the split where the format does not.
        folder: where the media lie, in any sub-folders; it becomes the manifest's root.
        format: one of `FORMATS`.
        classes: keep only these labels, and the clips that have one of them.

    A clip that is listed twice in the same way counts once.

    Raises:
        UserError: a file is not there or of another format, a clip is listed twice in different
            ways, or not one listed clip has a file.
    """
    if format not in FORMATS:
        raise UserError(f"no label format {format!r}: choose one of {', '.join(FORMATS)}")
    recipe = FORMATS[format]
    if classes is None and format == "kinetics-sounds":
        classes = KINETICS_SOUNDS
    wanted = None if classes is None else {_plain(name): name for name in classes}

    def key(stem: str) -> str:
        return stem.lower() if recipe.any_case else stem

    paths: dict[str, list[str]] = {}
    files_there = {clip.path: clip for clip in folder_clips(folder, folder)}
    for clip in files_there.values():
        paths.setdefault(key(PurePosixPath(clip.path).stem), []).append(clip.path)
    missing, others, listed = [], 0, 0
    met: set[str] = set()
    found: dict[tuple[str, ...], Clip] = {}  # by path and segment
    ambiguous: dict[str, list[str]] = {}
    for entry in _entries(files, format, key):
        listed += 1
        labels = entry.labels
        if wanted is not None:
            labels = tuple(wanted[_plain(x)] for x in labels if _plain(x) in wanted)
            met.update(labels)
            if not labels:
                others += 1
                continue
        stem = next((key(stem) for stem in entry.stems if key(stem) in paths), None)
        if stem is None:
            missing.append(entry.stems[0])
            continue
        path = paths[stem][0]
        if len(paths[stem]) > 1:
            ambiguous[stem] = paths[stem]
        label = SEPARATOR.join(name.replace(SEPARATOR, ",") for name in labels)
        clip = dataclasses.replace(
            files_there[path], label=label, split=entry.split, extra=entry.extra
        )
        other = found.setdefault((path, *_segment(clip.extra)), clip)
        if other != clip:
            raise UserError(_twice(path, _said(other), _said(clip)))
    clips = list(found.values())
    if not clips:
        example = f", the first of them {missing[0]!r}" if missing else ""
        raise UserError(
            f"not one of the {listed - others} clips that {', '.join(files)} lists lies in {folder}"
            f"{example}: give the folder that holds the media"
        )
    unknown = sorted(set(wanted.values()) - met) if wanted else []
    unlisted = sum(map(len, paths.values())) - len({clip.path for clip in clips})
    unnamed = [name for name in files if recipe.named and not recipe.named(_split_of(name)[1])]
    return Listing(
        Manifest(folder, clips),
        missing,
        unlisted,
        others,
        unknown,
        list(ambiguous.values()),
        unnamed,
    )


@dataclass(frozen=True)
class LabelFiles:
    """What `read_labels` needs besides the folder."""

    files: Sequence[str]
    format: str
    classes: Sequence[str] | None = None

    def read(self, folder: Path) -> Listing:
        """The folder's media with the labels of these files."""
        return read_labels(self.files, folder, format=self.format, classes=self.classes)


def place_segments(clips: Sequence[Clip]) -> list[Clip]:
    """Scanned rows, with start and end where the file is the whole video and not the cut clip.

    A file that reaches to the end of the labelled segment and is more than a second longer than it
    is taken for the whole video.
    """
    placed = []
    for clip in clips:
        if clip.start is None and clip.end is None and "segment_end" in clip.extra:
            start, end = (float(clip.extra[name]) for name in ("segment_start", "segment_end"))
            length = max(clip.duration or 0.0, clip.sound_duration or 0.0)
            if length > end - 0.5 and length > end - start + 1:
                clip = dataclasses.replace(clip, start=start, end=end)
        placed.append(clip)
    return placed


def read_classes(file: Path) -> list[str]:
    """Class names from a text file, one a line."""
    names = [line.strip() for line in label_text(file).splitlines() if line.strip()]
    if not names:
        raise UserError(f"{file} names no class: write one a line")
    return names


def _entries(files: Sequence[str], format: str, key: Callable[[str], str]) -> Iterator[Entry]:
    """The rows of all files; one that stands in them several times comes once."""
    seen: dict[str, str] = {}  # AudioSet lists two million: not the entries themselves
    for name in dict.fromkeys(files):
        split, file = _split_of(name)
        _check_first(file, format)
        for entry in FORMATS[format].read(file, split):
            own, said = " ".join([key(entry.stems[0]), *_segment(entry.extra)]), _said(entry)
            first = seen.get(own)
            if first is None:
                seen[own] = said
                yield entry
            elif first != said:
                raise UserError(_twice(entry.stems[0], first, said))


def _segment(extra: Mapping[str, str]) -> tuple[str, str]:
    return extra.get("segment_start", ""), extra.get("segment_end", "")


def _said(row: Entry | Clip) -> str:
    """What a label file says of a clip."""
    labels = row.label if isinstance(row, Clip) else SEPARATOR.join(row.labels)
    fold = f", fold {row.extra['fold']}" if "fold" in row.extra else ""
    return f"{labels!r} in the split {row.split}{fold}"


def _twice(name: str, first: str, again: str) -> str:
    return (
        f"the label files list {name} twice, as {first} and as {again}: name files that agree, or "
        "take one of the rows out"
    )


def _split_of(name: str) -> tuple[str, Path]:
    split, equals, file = name.partition("=")
    return (split, Path(file)) if equals and split in SPLITS else ("", Path(name))


def _plain(label: str) -> str:
    return label.replace("_", " ").strip().lower()


def _check_first(file: Path, format: str) -> None:
    first = next((line for line in label_text(file).splitlines() if line.strip()), "")
    if re.search(FORMATS[format].first, first):
        return
    fits = [name for name, other in FORMATS.items() if re.search(other.first, first)]
    advice = f"; it looks like --format {fits[0]}" if fits else ""
    raise UserError(
        f"{file} is not in the format {format}: it begins with {first[:60]!r}, not with "
        f"{FORMATS[format].expects}{advice}"
    )
