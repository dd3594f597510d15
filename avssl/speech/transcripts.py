"""Reading every clip of a manifest: with progress, stopped and continued at any batch.

What is done stands in a file, one line a clip under a first line that says by which reader, so that
the same call goes on and one with another reader starts anew.
"""

from __future__ import annotations

import json
import zlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avssl.data.config import DataConfig
from avssl.data.dataset import ClipDataset
from avssl.data.lengths import frame_count, longest_frames
from avssl.data.loader import Loader, make_eval_loader
from avssl.data.manifest import Clip, Manifest
from avssl.data.usable import Check, Misfit, extent
from avssl.errors import UserError
from avssl.files import write_whole
from avssl.speech.decoding import Decoding
from avssl.train.progress import clock, now

if TYPE_CHECKING:
    from avssl.speech.reader import Reader

EVERY = 10.0  # s between two lines of progress


@dataclass(frozen=True)
class Reading:
    """What was read of a clip.

    Attributes:
        row: of the manifest. path: of the clip.
        text: what was read. confidence: 0 to 1.
        failure: why the clip was not read, "" if it was.
    """

    row: int
    path: str
    text: str = ""
    confidence: float = 0.0
    failure: str = ""


@dataclass(frozen=True)
class Task:
    """What is read by what.

    Attributes:
        name: for progress, such as "test".
        reader, settings: of the search.
        manifest: of the clips. rows: which of them.
        data: how they are read, without transcripts.
    """

    name: str
    reader: Reader
    settings: Decoding
    manifest: Manifest
    rows: list[int]
    data: DataConfig

    def about(self) -> dict[str, Any]:
        """What must be the same for a call to go on: all that decides a transcript."""
        clips = [self.manifest.clips[row] for row in self.rows]
        rows = [(row, c.path, c.start, c.end) for row, c in zip(self.rows, clips, strict=True)]
        about = {
            "weights": self.reader.description.get("weights"),
            "lm": self.reader.description.get("lm"),
            "decode": asdict(self.settings),
            "inputs": {name: asdict(recipe) for name, recipe in self.data.inputs.items()},
            "longest": self.data.reach,
            "clips": f"{len(rows)} ({zlib.crc32(repr(rows).encode()):08x})",
        }
        return json.loads(json.dumps(about))


def transcribe_clips(task: Task, file: Path) -> list[Reading]:
    """Read the clips of a task, those that `file` holds from an earlier call left out.

    Args:
        file: where what is done stands, such as transcripts/test.jsonl.

    Returns:
        One for each row, in their order; clips that cannot be read, or are longer than
        `data.lengths.longest`, have a `failure`.

    Raises:
        UserError: a source of clips cannot be read at all.
        KeyboardInterrupt: the same call goes on where this one stopped.
    """
    done = _done(file, task)
    left = [row for row in task.rows if row not in done]
    if left:
        if done:
            print(f"{task.name}: {len(done)} clips were done earlier", flush=True)
        lines = [task.about(), *(asdict(found) for found in done.values())]
        write_whole(file, "".join(f"{json.dumps(line)}\n" for line in lines))
        with open(file, "a", encoding="utf-8") as stream:
            for batch in _read(task, left):
                for found in batch:
                    done[found.row] = found
                    stream.write(f"{json.dumps(asdict(found))}\n")
                stream.flush()
    return [done[row] for row in task.rows]


def _read(task: Task, rows: list[int]) -> Iterator[list[Reading]]:
    """First the clips that cannot be read, for all that is known of them, then transcripts batch by
    batch."""
    clips = task.manifest.clips
    check = WholeClips(task.data)
    reasons = {row: reason for row in rows if (reason := check.reason(clips[row]))}
    yield [Reading(row, clips[row].path, failure=reason) for row, reason in reasons.items()]
    rows = [row for row in rows if row not in reasons]
    if not rows:
        return
    names = Counter(clips[row].path for row in rows)
    row_of = {clips[row].path: row for row in rows if names[clips[row].path] == 1}
    damaged: dict[str, str] = {}  # of files with several clips: it is not said which
    read: set[int] = set()
    began = said = now()
    for batch in _batches(task, rows):
        read_now = [rows[number] for number in batch["clip"].tolist()]
        found = task.reader.transcribe(batch, settings=task.settings) if read_now else []
        texts = [task.reader.units.decode(item.units) for item in found]
        readings = [
            Reading(row, clips[row].path, text, round(item.confidence, 6))
            for row, text, item in zip(read_now, texts, found, strict=True)
        ]
        for path, reason in batch["failures"]:
            if path in row_of:
                readings.append(Reading(row_of[path], path, failure=reason))
            damaged[path] = reason
        yield readings
        read |= {item.row for item in readings}
        if now() - said > EVERY:
            said = now()
            rate = len(read) / (said - began)  # clips per second
            left = f"  ETA {clock((len(rows) - len(read)) / rate)}" if rate else ""
            print(f"{task.name}: {len(read)} of {len(rows)} clips{left}", flush=True)
    yield [
        Reading(row, path, failure=damaged.get(path, "cannot be read"))
        for row in rows
        if row not in read and (path := clips[row].path)
    ]


def _batches(task: Task, rows: list[int]) -> Loader:
    """Those rows, numbered anew, within the budget."""
    manifest = Manifest(task.manifest.root, [task.manifest.clips[row] for row in rows])
    dataset = ClipDataset(manifest, task.data, split=None, training=False, replace=False)
    return make_eval_loader(dataset, task.data, device=task.reader.device)


class WholeClips(Check):
    """Clips longer than `data.lengths.longest` cannot serve: what is cut off would not be read."""

    def __call__(self, clip: Clip) -> tuple[int, list[int]]:
        found = super().__call__(clip)
        seconds = extent(clip, video=self.config.needs_video)[1]
        if frame_count(seconds, self.config) > longest_frames(self.config):
            raise Misfit(
                f"is {seconds:.2f} s long, data.lengths.longest is {self.config.reach:g}: raise "
                "it, or read the clip in pieces with tools/lipread.py"
            )
        return found


def _done(file: Path, task: Task) -> dict[int, Reading]:
    """What an earlier call with the same reader left, by row; a line half written is left out."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    found: dict[int, Reading] = {}
    try:
        if json.loads(lines[0]) != task.about():
            return {}
        for line in lines[1:]:
            if line.endswith("\n"):
                item = Reading(**json.loads(line))
                found[item.row] = item
    except (ValueError, TypeError, IndexError):
        raise UserError(f"{file} is damaged: remove it, and the clips are read again") from None
    return found
