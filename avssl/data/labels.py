"""Label files in their published formats (AudioSet, VGGSound, ESC, Kinetics, UCF101) as manifests.

A label file lists clips by an identifier; the media lie in a folder under names made from it. The
rows that result have `label`, `split` and, where the format has them, the columns `fold`,
`segment_start` and `segment_end` (seconds in the original video).

A clip with several labels (AudioSet) has them in `label`, separated by ";": whoever reads such a
manifest takes the label apart with `labels_of`.
"""

import dataclasses
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from avssl.data.label_formats import FORMATS, KINETICS_SOUNDS, label_text
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
    no label file.
    """

    manifest: Manifest
    missing: list[str]
    unlisted: int
    other_classes: int
    unknown: list[str]

    def describe(self, *, shown: int = 10) -> str:
        """One line of counts, then the first names that have no file."""
        counts = f"{len(self.manifest.clips)} labelled clips found, {len(self.missing)} listed "
        counts += f"clips have no file, {self.unlisted} files are not listed"
        if self.other_classes:
            counts += f", {self.other_classes} listed clips are of other classes"
        lines = [counts, *(f"  no file: {name}" for name in self.missing[:shown])]
        if len(self.missing) > shown:
            lines.append(f"  and {len(self.missing) - shown} more")
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

    Raises:
        UserError: a file is not there or of another format, or not one listed clip has a file.
    """
    if format not in FORMATS:
        raise UserError(f"no label format {format!r}: choose one of {', '.join(FORMATS)}")
    recipe = FORMATS[format]
    if classes is None and format == "kinetics-sounds":
        classes = KINETICS_SOUNDS
    wanted = None if classes is None else {_plain(name): name for name in classes}

    def key(stem: str) -> str:
        return stem.lower() if recipe.any_case else stem

    paths: dict[str, str] = {}
    for clip in folder_clips(folder, folder):
        paths.setdefault(key(PurePosixPath(clip.path).stem), clip.path)
    clips, missing, others, listed = [], [], 0, 0
    met: set[str] = set()
    for name in files:
        split, file = _split_of(name)
        _check_first(file, format)
        for entry in recipe.read(file, split):
            listed += 1
            labels = entry.labels
            if wanted is not None:
                labels = tuple(wanted[_plain(x)] for x in labels if _plain(x) in wanted)
                met.update(labels)
                if not labels:
                    others += 1
                    continue
            path = next((paths[key(stem)] for stem in entry.stems if key(stem) in paths), None)
            if path is None:
                missing.append(entry.stems[0])
                continue
            label = SEPARATOR.join(name.replace(SEPARATOR, ",") for name in labels)
            clips.append(Clip(path=path, label=label, split=entry.split, extra=entry.extra))
    if not clips:
        example = f", the first of them {missing[0]!r}" if missing else ""
        raise UserError(
            f"not one of the {listed - others} clips that {', '.join(files)} lists lies in {folder}"
            f"{example}: give the folder that holds the media"
        )
    unknown = sorted(set(wanted.values()) - met) if wanted else []
    unlisted = len(set(paths.values()) - {clip.path for clip in clips})
    return Listing(Manifest(folder, clips), missing, unlisted, others, unknown)


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
