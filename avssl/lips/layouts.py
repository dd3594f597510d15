"""Folders of published corpora of talking faces as manifests: LRS2, LRS3, GRID, VoxCeleb2.

Texts of LRS2 and LRS3, which are in capitals there, become small letters. A clip whose text is
missing or damaged is a row that has no picture and a reason, as a scan records damage.
"""

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from pathlib import Path

from avssl.data.container import MediaError
from avssl.data.manifest import Clip, Manifest
from avssl.data.scan import listed_clips
from avssl.errors import UserError

VAL = 0.04  # [choice] share of the speakers held back where the corpus names no val
_GRID_TEST = frozenset({"s1", "s2", "s20", "s22"})  # LipNet's unseen speakers (arXiv 1611.01599)
_GRID_NAME = re.compile(r"([blps])([bgrw])([abiw])([a-vx-z])([1-9z])([anps])$")
_GRID_WORDS: tuple[dict[str, str], ...] = (
    {"b": "bin", "l": "lay", "p": "place", "s": "set"},
    {"b": "blue", "g": "green", "r": "red", "w": "white"},
    {"a": "at", "b": "by", "i": "in", "w": "with"},
    {},  # a letter is its own word
    {"1": "one", "2": "two", "3": "three", "4": "four", "5": "five"}
    | {"6": "six", "7": "seven", "8": "eight", "9": "nine", "z": "zero"},
    {"a": "again", "n": "now", "p": "please", "s": "soon"},
)
_PAUSE = 0.5  # s: so much of a pause stays with the words beside it [choice]
_SILENCE = {"sil", "sp"}
_VIDEOS = frozenset({".mp4", ".mpg", ".mpeg", ".avi", ".mov", ".mkv"})


def read_layout(source: Path, layout: str, *, longest: float, val: float = VAL) -> Manifest:
    """The clips of a folder (or manifest) with texts, splits and what else the corpus tells.

    Args:
        source: the corpus's folder; for `manifest` also a CSV.
        layout: one of LAYOUTS.
        longest: s; longer clips whose words have times are cut between words.
        val: share of the speakers that are held back as val, where the corpus names none.

    Raises:
        UserError: the folder does not look like that.
    """
    if layout == "manifest":
        return listed_clips(source).with_splits()
    if not source.is_dir():
        raise UserError(f"{source} is not a folder: --layout {layout} reads the corpus's folder")
    clips = list(LAYOUTS[layout](source, longest, val))
    if not clips:
        raise UserError(f"{source} holds no clip in the layout {layout}: see --help")
    return Manifest(source, clips)


def _lrs3(source: Path, longest: float, val: float) -> Iterator[Clip]:
    """pretrain, trainval and test, each with SPEAKER/CLIP.mp4 and CLIP.txt."""
    sets = [name for name in ("pretrain", "trainval", "test") if (source / name).is_dir()]
    if not sets:
        raise UserError(f"{source} holds none of the folders pretrain, trainval and test")
    for name in sets:
        for video in sorted((source / name).glob("*/*.mp4")):
            speaker = video.parent.name
            split = "test" if name == "test" else held_back(speaker, val)
            extra = {"set": name, "speaker": speaker}
            yield from _with_text(source, video, split, extra, longest)


def _lrs2(source: Path, longest: float, val: float) -> Iterator[Clip]:
    """main and pretrain with SHOW/CLIP.mp4 and CLIP.txt; train.txt, val.txt, test.txt list main."""
    del val  # the corpus names it
    splits: dict[str, str] = {}
    if (source / "main").is_dir():
        for split in ("train", "val", "test"):
            file = source / f"{split}.txt"
            if not file.is_file():
                raise UserError(f"{file} is missing: it lists the clips of main that are for it")
            for line in _list_lines(file):
                if line.strip():
                    splits[line.split()[0]] = split
    for name in ("pretrain", "main"):
        for video in sorted((source / name).glob("*/*.mp4")):
            listed = splits.get(f"{video.parent.name}/{video.stem}", "")
            split = listed if name == "main" else "train"
            if not split:
                reason = "none of train.txt, val.txt and test.txt lists it"
                yield _unusable(video.relative_to(source), reason)
                continue
            extra = {"set": name, "speaker": video.parent.name}
            yield from _with_text(source, video, split, extra, longest)


def _list_lines(file: Path) -> list[str]:
    """The lines of a list of clips.

    Raises:
        UserError: it cannot be read as text.
    """
    try:
        return file.read_text(encoding="utf-8").splitlines()
    except OSError as error:
        raise UserError(f"cannot read the list of clips {file}: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"the list of clips {file} is not text in UTF-8 ({error}): save it as that, or take "
            "the file that comes with the corpus"
        ) from None


def _with_text(
    source: Path, video: Path, split: str, extra: dict[str, str], longest: float
) -> Iterator[Clip]:
    """The rows of one clip of LRS2 or LRS3: several where it is long and its words have times."""
    path = video.relative_to(source).as_posix()
    try:
        text, words = lrs_text(video.with_suffix(".txt"))
    except MediaError as error:
        yield _unusable(video.relative_to(source), str(error))
        return
    pieces = cut_words(words, longest)
    if len(pieces) < 2:
        yield Clip(path=path, text=text, split=split, extra=extra)
        return
    for start, end, said in pieces:
        yield Clip(path=path, start=start, end=end, text=said, split=split, extra=extra)


def lrs_text(file: Path) -> tuple[str, list[tuple[str, float, float]]]:
    """The text of a file of LRS2 or LRS3, and its words with start and end in s if it has them.

    Raises:
        MediaError: it is missing or damaged.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise MediaError(f"its text {file.name} cannot be read ({error.strerror})") from None
    texts = [line.partition(":")[2] for line in lines if line.startswith("Text:")]
    if not texts:
        raise MediaError(f'its text {file.name} has no line that begins with "Text:"')
    words: list[tuple[str, float, float]] = []
    heads = [k for k, line in enumerate(lines) if line.split()[:3] == ["WORD", "START", "END"]]
    for line in lines[heads[0] + 1 :] if heads else []:
        cells = line.split()
        if len(cells) < 3:
            break
        try:
            first, last = float(cells[1]), float(cells[2])
        except ValueError:
            first = last = math.nan
        if not (words[-1][1] if words else 0) <= first <= last < math.inf:
            raise MediaError(
                f"{file.name}: {line!r} is not a word, its start and its end, or not in order"
            )
        words.append((_plain(cells[0]), first, last))
    return _plain(texts[0]), words


def cut_words(
    words: list[tuple[str, float, float]], longest: float
) -> list[tuple[float, float, str]]:
    """Stretches (start, end, text) of at most `longest` s that begin and end between words.

    They take in half of the pause before and after, and no more than _PAUSE of it. A word that is
    longer by itself is a stretch of its own.
    """
    pieces: list[tuple[float, float, str]] = []
    said: list[str] = []
    begin = before = 0.0  # s: begin of the stretch, and end of the word before
    for number, (word, first, last) in enumerate(words):
        if not said:
            begin = max(first - _PAUSE, (before + first) / 2, 0.0)
        said.append(word)
        before = last
        following = words[number + 1] if number + 1 < len(words) else None
        if following is None or following[2] - begin > longest:
            pause = _PAUSE if following is None else min(_PAUSE, (following[1] - last) / 2)
            end = max(last, min(last + pause, begin + longest))
            pieces.append((round(begin, 3), round(end, 3), " ".join(filter(None, said))))
            said = []
    return pieces


def _plain(text: str) -> str:
    """Small letters, single spaces, without marks such as {NS}."""
    return " ".join(re.sub(r"\{[^}]*\}", " ", text).lower().split())


def _grid(source: Path, longest: float, val: float) -> Iterator[Clip]:
    """Videos in any folders; the speaker is the folder s1 to s34 above; texts are files of the
    same name that end in .align, else follow from the name."""
    del longest  # all clips have 3 s
    aligned = {
        (_grid_speaker(file.relative_to(source)), file.stem): file
        for file in sorted(source.rglob("*.align"))
    }
    for video in sorted(source.rglob("*")):
        if video.suffix.lower() not in _VIDEOS or video.name.startswith("."):
            continue
        inside = video.relative_to(source)
        speaker = _grid_speaker(inside)
        file = aligned.get((speaker, video.stem)) or aligned.get(("", video.stem))
        try:
            text = align_text(file) if file else grid_text(video.stem)
        except MediaError as error:
            yield _unusable(inside, str(error))
            continue
        split = "test" if speaker in _GRID_TEST else held_back(speaker or video.stem, val)
        yield Clip(path=inside.as_posix(), text=text, split=split, extra={"speaker": speaker})


def _grid_speaker(path: Path) -> str:
    """The last folder that is named as a speaker, such as s12; "" if there is none."""
    names = [part for part in path.parts[:-1] if re.fullmatch(r"s\d{1,2}", part)]
    return names[-1] if names else ""


def align_text(file: Path) -> str:
    """The words of an .align file, whose lines are start, end and word.

    Raises:
        MediaError: it cannot be read, or is damaged.
    """
    try:
        lines = file.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise MediaError(f"its text {file.name} cannot be read ({error.strerror})") from None
    words = []
    for line in lines:
        cells = line.split()
        if len(cells) not in (0, 3) or not all(cell.isdecimal() for cell in cells[:2]):
            raise MediaError(f"{file.name}: {line!r} is not start, end and word")
        words += [cell.lower() for cell in cells[2:] if cell.lower() not in _SILENCE]
    return " ".join(words)


def grid_text(stem: str) -> str:
    """The sentence that the six last letters of a name stand for.

    Raises:
        MediaError: they stand for none.
    """
    match = _GRID_NAME.search(stem.lower())
    if match is None:
        raise MediaError(
            f"there is no {stem}.align, and its name is no sentence of GRID such as bbaf2n"
        )
    words = zip(match.groups(), _GRID_WORDS, strict=True)
    return " ".join(known.get(letter, letter) for letter, known in words)


def _voxceleb2(source: Path, longest: float, val: float) -> Iterator[Clip]:
    """[dev or test/][mp4/]SPEAKER/VIDEO/CLIP.mp4, without text; sound from aac/ beside mp4/."""
    del longest  # clips without a text are cut when their length is known
    for video in sorted(source.rglob("id*/*/*.mp4")):
        inside = video.relative_to(source)
        speaker = video.parts[-3]
        split = "test" if "test" in inside.parts[:-3] else held_back(speaker, val)
        above = inside.parts[:-3]
        wav = ""
        if above and above[-1] == "mp4":
            sound = Path(*above[:-1], "aac", *inside.parts[-3:]).with_suffix(".m4a")
            wav = sound.as_posix() if (source / sound).is_file() else ""
        yield Clip(path=inside.as_posix(), split=split, wav=wav, extra={"speaker": speaker})


def _unusable(path: Path, reason: str) -> Clip:
    return Clip(path=path.as_posix(), has_video=False, has_audio=False, reason=reason)


def held_back(speaker: str, val: float) -> str:
    """train, or val for some speakers, chosen by their names alone."""
    place = int(hashlib.sha256(speaker.encode()).hexdigest()[:8], 16) / 2**32
    return "val" if place < val else "train"


LAYOUTS: dict[str, Callable[[Path, float, float], Iterator[Clip]]] = {
    "lrs3": _lrs3,
    "lrs2": _lrs2,
    "grid": _grid,
    "voxceleb2": _voxceleb2,
}
