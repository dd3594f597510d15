"""What a folder of prepared crops knows about itself: its settings, and which files are done."""

import dataclasses
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from avssl.data.container import MediaError
from avssl.data.manifest import Clip
from avssl.data.shards import stored_in
from avssl.errors import UserError
from avssl.files import write_whole
from avssl.lips.points import landmark_file

_SETTINGS, _DONE = ".lips.json", ".lips.jsonl"
_SOURCE = "source"


@dataclass(frozen=True)
class Piece:
    """What came of one stretch of a source file."""

    row: int  # which of the file's rows it belongs to
    start: float | None  # s in the source; None: from the beginning
    end: float | None
    reason: str = ""  # why there are no crops, or no sound
    clip: Clip | None = None  # the scanned row of the crops


def claim(target: Path, settings: Mapping[str, object], source: Path) -> None:
    """Note settings and source in the target folder, or hold them against those noted there.

    Raises:
        UserError: they differ, what is noted cannot be read, or the folder holds other clips.
    """
    file = target / _SETTINGS
    # relative, as both folders may be moved together
    beside = Path(os.path.relpath(os.path.realpath(source), os.path.realpath(target))).as_posix()
    wanted = {**settings, _SOURCE: beside}
    if target.exists() and not target.is_dir():
        raise UserError(f"{target} is a file: name a folder for the crops")
    if not file.exists():
        if (target / "manifest.csv").exists():
            raise UserError(
                f"{target} holds a manifest.csv of other clips, which that of the crops would "
                "replace: name another folder"
            )
        write_whole(file, json.dumps(wanted, indent=1) + "\n")
        return
    try:
        noted = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        raise UserError(f"{file} is damaged: remove {target}, or name another folder") from None
    if not isinstance(noted, dict):
        raise UserError(f"{file} is damaged: remove {target}, or name another folder")
    if noted.get(_SOURCE) != beside:
        raise UserError(
            f"{target} holds crops of the clips in {_said(noted.get(_SOURCE))} (seen from there), "
            f"which those of {source} would replace: name another folder"
        )
    for name in settings:
        if noted.get(name) != wanted[name]:
            raise UserError(
                f"{target} holds crops prepared with --{name} {_said(noted.get(name))}, not "
                f"{_said(wanted[name])}: name another folder"
            )


def _said(value: object) -> str:
    return "(none)" if value in (None, "") else str(value)


class Record:
    """The pieces of each source file, kept as it gets ready, so that a stopped run goes on.

    Args:
        target: folder of the crops; source: folder of the clips' paths; landmarks: folder of given
            landmarks, "" without.
    """

    def __init__(self, target: Path, source: Path, landmarks: str = "") -> None:
        self.target, self.source, self.landmarks = target, source, landmarks
        self.known: dict[str, list[Piece]] = {}
        try:
            lines = (target / _DONE).read_text(encoding="utf-8").splitlines()
        except OSError:
            return
        for line in lines:
            try:
                entry = json.loads(line)
                self.known[entry["key"]] = [_piece(values) for values in entry["pieces"]]
            except (ValueError, KeyError, TypeError):
                continue  # a line cut off by an interrupted run

    def get(self, rows: Sequence[Clip], *, retry: bool) -> list[Piece] | None:
        """The pieces of a file's rows, unless it changed or a file of its crops is missing."""
        pieces = self.known.get(self._key(rows))
        if pieces is None or (retry and any(piece.clip is None for piece in pieces)):
            return None
        for piece in pieces:
            files = [piece.clip.path, piece.clip.wav] if piece.clip else []
            if not all((self.target / file).is_file() for file in files if file):
                return None
        return pieces

    def put(self, rows: Sequence[Clip], pieces: Sequence[Piece]) -> None:
        """Keep the pieces of a file's rows."""
        entry = {"key": self._key(rows), "pieces": [dataclasses.asdict(one) for one in pieces]}
        with open(self.target / _DONE, "a", encoding="utf-8") as lines:
            lines.write(json.dumps(entry) + "\n")

    def _key(self, rows: Sequence[Clip]) -> str:
        path = rows[0].path
        key: list[object] = [path, _stamp(stored_in(self.source / path, rows[0]))]
        key.append([[row.start, row.end, row.wav, bool(row.text)] for row in rows])
        if self.landmarks:
            try:
                key.append(_stamp(landmark_file(Path(self.landmarks), path)))
            except MediaError:
                key.append([])
        return json.dumps(key)


def _stamp(file: Path) -> list[int]:
    """Size and time of a file; empty if it is not there."""
    try:
        status = os.stat(file)
    except OSError:
        return []
    return [status.st_size, status.st_mtime_ns]


def _piece(values: dict[str, object]) -> Piece:
    clip = values.pop("clip")
    return Piece(**values, clip=None if clip is None else Clip(**clip))  # type: ignore[arg-type]
