"""Readers of published label files: AudioSet, VGGSound, ESC, Kinetics, UCF101, Something-Something,
and the lists of VideoMAE and MVD."""

import csv
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from avssl.data.manifest import SPLITS
from avssl.errors import UserError

# 32 of the 34 classes of Kinetics-Sounds (Arandjelovic and Zisserman 2017, arXiv 1705.08168), whose
# list was printed for an early Kinetics-400; these have a name in the released files. As given by
# the authors of CrissCross (GitHub pritamqu/CrissCross); the 31 of AdaMML (GitHub IBM/AdaMML) are
# the same without "strumming guitar".
KINETICS_SOUNDS = (
    "blowing nose, blowing out candles, bowling, chopping wood, dribbling basketball, laughing, "
    "mowing lawn, playing accordion, playing bagpipes, playing bass guitar, playing clarinet, "
    "playing drums, playing guitar, playing harmonica, playing keyboard, playing organ, "
    "playing piano, playing saxophone, playing trombone, playing trumpet, playing violin, "
    "playing xylophone, ripping paper, shoveling snow, shuffling cards, singing, stomping grapes, "
    "strumming guitar, tap dancing, tapping guitar, tapping pen, tickling"
).split(", ")


CLASS_NAMES = "class_labels_indices.csv"  # AudioSet's identifiers and what they mean


@dataclass(frozen=True)
class Entry:
    """One row of a label file. stems: what its file may be called, without folder and ending."""

    stems: tuple[str, ...]
    labels: tuple[str, ...]
    split: str = ""
    extra: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Format:
    """How to read a format; `first` matches a file's first line, `expects` says what that is.

    any_case: file names in the list and on disk differ in case. named: whether labels are names
    and not identifiers, asked of a label file.
    """

    first: str
    expects: str
    read: Callable[[Path, str], Iterator[Entry]]
    any_case: bool = False
    named: Callable[[Path], bool] | None = None


def label_text(file: Path) -> str:
    """What a label file holds, in UTF-8 with or without a byte order mark.

    Raises UserError when it cannot be read or is no text.
    """
    try:
        return file.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"cannot read the label file {file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{file} is no text in UTF-8, so no label file") from None


def _rows(file: Path, cells: int) -> Iterator[tuple[str, list[str]]]:
    """(place, cells) of each line that is no comment."""
    lines = label_text(file).splitlines()
    for number, line in enumerate(lines, 1):
        if not line.strip() or line.startswith("#"):
            continue
        row = next(csv.reader([line], skipinitialspace=True))
        if len(row) != cells:
            raise UserError(f"{file}, line {number}: {len(row)} cells, expected {cells}: {line!r}")
        yield f"{file}, line {number}", row


def _table(file: Path, *needed: str) -> Iterator[tuple[str, dict[str, str]]]:
    """(place, cells by column name) of a file whose first line names the columns."""
    reader = csv.DictReader(label_text(file).splitlines())
    lacking = sorted(set(needed) - set(reader.fieldnames or []))
    if lacking:
        raise UserError(f"{file} has no column {', '.join(lacking)}")
    for row in reader:
        if any(row[name] is None for name in needed):
            raise UserError(f"{file}, line {reader.line_num}: too few cells")
        yield f"{file}, line {reader.line_num}", row


def _seconds(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{where}: {text!r} is not a number of seconds") from None


def _segment(start: float, end: float) -> dict[str, str]:
    return {"segment_start": f"{start:g}", "segment_end": f"{end:g}"}


def _audioset(file: Path, split: str) -> Iterator[Entry]:
    """`YTID, start_seconds, end_seconds, "mid,mid"`; names from `CLASS_NAMES` beside."""
    name = file.name.lower()
    split = split or ("train" if "train" in name else "test" if "eval" in name else "")
    if not split:
        raise UserError(
            f"AudioSet's files do not say their split, and neither does the name of {file}: write "
            f"train={file} or test={file}"
        )
    names: dict[str, str] = {}
    index = file.with_name(CLASS_NAMES)
    if _audioset_named(file):
        for _, row in _table(index, "mid", "display_name"):
            names[row["mid"]] = row["display_name"]
    for where, (video, begin, stop, mids) in _rows(file, 4):
        start, end = _seconds(begin, where), _seconds(stop, where)
        stems = _stems(video, start, end)
        labels = tuple(names.get(mid.strip(), mid.strip()) for mid in mids.split(","))
        yield Entry((*stems, *("Y" + stem for stem in stems)), labels, split, _segment(start, end))


def _audioset_named(file: Path) -> bool:
    return file.with_name(CLASS_NAMES).is_file()


def _vggsound(file: Path, split: str) -> Iterator[Entry]:
    """`YTID,start,label,train|test`; segments are 10 s."""
    for where, (video, begin, label, given) in _rows(file, 4):
        start = _seconds(begin, where)
        if given not in SPLITS:
            raise UserError(f"{where}: split {given!r} is none of {', '.join(SPLITS)}")
        stems = (f"{video}_{int(start):06d}", *_stems(video, start, start + 10))
        yield Entry(stems, (label.strip(),), given, _segment(start, start + 10))


def _esc(file: Path, split: str) -> Iterator[Entry]:
    """meta/esc50.csv; without folds asked for, fold 5 is the test split."""
    for _, row in _table(file, "filename", "fold", "category", "esc10"):
        stem, fold = PurePosixPath(row["filename"]).stem, row["fold"]
        given = "test" if fold == "5" else "train"
        yield Entry((stem,), (row["category"],), given, {"fold": fold, "esc10": row["esc10"]})


def _esc10(file: Path, split: str) -> Iterator[Entry]:
    return (entry for entry in _esc(file, split) if entry.extra["esc10"].lower() == "true")


def _kinetics(file: Path, split: str) -> Iterator[Entry]:
    """`label,youtube_id,time_start,time_end,split`; files ID_000012_000022.mp4."""
    for where, row in _table(file, "label", "youtube_id", "time_start", "time_end", "split"):
        start, end = (_seconds(row[name], where) for name in ("time_start", "time_end"))
        given = {"validate": "val", "validation": "val"}.get(row["split"], row["split"])
        if given not in SPLITS:
            raise UserError(f"{where}: split {row['split']!r} is none of train, validate, test")
        long = f"{row['youtube_id']}_{int(start):06d}_{int(end):06d}"
        stems = (long, *_stems(row["youtube_id"], start, end))
        yield Entry(stems, (row["label"].replace("_", " "),), given, _segment(start, end))


def _ucf101(file: Path, split: str) -> Iterator[Entry]:
    """trainlist01.txt or testlist01.txt, which both are read; the folder is the class."""
    number = re.fullmatch(r"(?:train|test)list(\d\d)\.txt", file.name)
    if number is None:
        raise UserError(f"{file}: UCF101's lists are called trainlist01.txt and testlist01.txt")
    classes = file.with_name("classInd.txt")
    known = {line.split()[-1] for line in label_text(classes).splitlines() if line.strip()}
    for given in ("train", "test"):
        part = file.with_name(f"{given}list{number[1]}.txt")
        for line in filter(str.strip, label_text(part).splitlines()):
            path = PurePosixPath(line.split()[0])
            if path.parent.name not in known:
                raise UserError(f"{part}: {path} is in no class that {classes} lists")
            yield Entry((path.stem,), (path.parent.name,), given)


def _videomae(file: Path, split: str) -> Iterator[Entry]:
    """`path label` a line, as VideoMAE and MVD list Kinetics and Something-Something: train.csv,
    val.csv and test.csv, whose labels are numbers; the path's folders do not count."""
    split = split or _split_in(file)
    for number, line in enumerate(label_text(file).splitlines(), 1):
        if not line.strip():
            continue
        found = re.fullmatch(r"(\S.*\.\w+)\s+(\d+)\s*", line)
        if found is None:
            raise UserError(
                f"{file}, line {number}: {line!r} is not a media file and the number of its class "
                "with a space between; lists of folders of frames are not read"
            )
        yield Entry((PurePosixPath(found[1]).stem,), (found[2],), split)


SOMETHING_LABELS = ("labels.json", "something-something-v2-labels.json")


def _something(file: Path, split: str) -> Iterator[Entry]:
    """Something-Something v2's train, validation and test lists: `id` is the file's name, and
    `template` without its brackets the class, which labels.json beside lists; test has none."""
    split = split or _split_in(file)
    index = next((x for x in map(file.with_name, SOMETHING_LABELS) if x.is_file()), None)
    if index is None:
        raise UserError(
            f"{file} needs the list of classes beside it, called {' or '.join(SOMETHING_LABELS)}"
        )
    classes, entries = _json(index, dict), _json(file, list)
    for number, entry in enumerate(entries, 1):
        where = f"{file}, entry {number}"
        if not isinstance(entry, dict) or not str(entry.get("id", "")):
            raise UserError(f"{where}: {str(entry)[:60]!r} has no id")
        labels: tuple[str, ...] = ()
        if "template" in entry:
            name = str(entry["template"]).replace("[", "").replace("]", "")
            if name not in classes:
                raise UserError(f"{where}: {name!r} is no class that {index} lists")
            labels = (name,)
        yield Entry((str(entry["id"]),), labels, split)


def _split_in(file: Path) -> str:
    """The split that a list's name says.

    Raises UserError when it says none.
    """
    found = re.findall(r"train|val|test", file.stem.lower())
    if not found:
        raise UserError(
            f"the name of {file} does not say its split: write train={file}, val={file} or "
            f"test={file}"
        )
    return str(found[-1])


def _json(file: Path, kind: type) -> Any:
    try:
        found = json.loads(label_text(file))
    except ValueError as error:
        raise UserError(f"{file} is no JSON: {error}") from None
    if not isinstance(found, kind):
        what = "list of clips" if kind is list else "table of classes"
        raise UserError(f"{file} holds no {what}")
    return found


def _stems(video: str, start: float, end: float) -> tuple[str, ...]:
    """Names that download tools give to a segment of a video."""
    return (
        video,
        f"{video}_{start:g}",
        f"{video}_{int(start):06d}",
        f"{video}_{start:.3f}",
        f"{video}_{start:g}_{end:g}",
        f"{video}_{round(start * 1000)}_{round(end * 1000)}",
    )


_KINETICS = Format(r'^"?label"?,"?youtube_id', "label,youtube_id,time_start,time_end", _kinetics)
_ESC = "filename,fold,target,category,esc10"
FORMATS = {
    "audioset": Format(
        r"^# ?(YTID|Segments csv|num_ytids)|^[\w-]{11}, *[\d.]+, *[\d.]+, *\"?/",
        "# YTID, start_seconds, end_seconds, positive_labels",
        _audioset,
        named=_audioset_named,
    ),
    "vggsound": Format(r"^[\w-]{11},\d+,.+,(train|test)\s*$", "YTID,start,label,split", _vggsound),
    "esc50": Format(r"^filename,fold,", _ESC, _esc),
    "esc10": Format(r"^filename,fold,", _ESC, _esc10),
    "kinetics": _KINETICS,
    "kinetics-sounds": _KINETICS,
    "ucf101": Format(r"^\w+/v_\w+\.\w+", "Class/v_Class_g01_c01.avi", _ucf101, any_case=True),
    "something-something": Format(r"^\[\s*(\{|$)", '[{"id": ...}, ...]', _something),
    "videomae": Format(r"^\S.*\.\w+\s+\d+\s*$", "path/of/clip.mp4 CLASS_NUMBER", _videomae),
}
