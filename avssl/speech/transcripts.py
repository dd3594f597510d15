"""Reading every clip of a manifest: with progress, stopped and continued at any batch.

What is done stands in a file, one line a clip under a first line that says by which reader, so that
the same call goes on and one with another reader starts anew.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from avssl.data.config import DataConfig
from avssl.data.dataset import ClipDataset
from avssl.data.loader import make_eval_loader
from avssl.data.manifest import Manifest
from avssl.errors import UserError
from avssl.files import write_whole
from avssl.speech.decoding import Decoding
from avssl.train.progress import clock, now

if TYPE_CHECKING:
    from avssl.speech.reader import Reader

EVERY = 10.0  # s between two lines of progress


@dataclass(frozen=True)
class Transcript:
    """What was read of a clip.

    Attributes:
        row: of the manifest. path: of the clip.
        text: what was read. confidence: 0 to 1.
        failure: why the clip could not be read, "" if it could.
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
            "clips": f"{len(rows)} ({zlib.crc32(repr(rows).encode()):08x})",
        }
        return json.loads(json.dumps(about))


def transcribe_clips(task: Task, file: Path) -> list[Transcript]:
    """Read the clips of a task, those that `file` holds from an earlier call left out.

    Args:
        file: where what is done stands, such as transcripts/test.jsonl.

    Returns:
        One for each row, in their order; unreadable clips have a `failure`.

    Raises:
        UserError: a source of clips cannot be read at all.
        KeyboardInterrupt: the same call goes on where this one stopped.
    """
    done = _done(file, task)
    left = [row for row in task.rows if row not in done]
    if left:
        if done:
            print(f"{task.name}: {len(done)} clips were read earlier", flush=True)
        lines = [task.about(), *(asdict(found) for found in done.values())]
        write_whole(file, "".join(f"{json.dumps(line)}\n" for line in lines))
        with open(file, "a", encoding="utf-8") as stream:
            for batch in _read(task, left):
                for found in batch:
                    done[found.row] = found
                    stream.write(f"{json.dumps(asdict(found))}\n")
                stream.flush()
    return [done[row] for row in task.rows]


def _read(task: Task, rows: list[int]) -> Iterator[list[Transcript]]:
    """Transcripts batch by batch, and in the end those that could not be read."""
    manifest = Manifest(task.manifest.root, [task.manifest.clips[row] for row in rows])
    dataset = ClipDataset(manifest, task.data, split=None, training=False, replace=False)
    reasons = dict(dataset.left_out)
    began = said = now()
    read: set[int] = set()
    for batch in make_eval_loader(dataset, task.data, device=task.reader.device):
        reasons |= dict(batch["failures"])
        numbers = batch["clip"].tolist()
        found = task.reader.transcribe(batch, settings=task.settings) if numbers else []
        texts = [task.reader.units.decode(item.units) for item in found]
        yield [
            Transcript(rows[number], manifest.clips[number].path, text, round(item.confidence, 6))
            for number, text, item in zip(numbers, texts, found, strict=True)
        ]
        read |= set(numbers)
        if now() - said > EVERY:
            said = now()
            total, rate = len(dataset), len(read) / (said - began)  # clips per second
            left = f"  ETA {clock((total - len(read)) / rate)}" if rate else ""
            print(f"{task.name}: {len(read)} of {total} clips{left}", flush=True)
    yield [
        Transcript(row, manifest.clips[number].path, failure=reasons.get(path, "cannot be read"))
        for number, row in enumerate(rows)
        if number not in read and (path := manifest.clips[number].path)
    ]


def _done(file: Path, task: Task) -> dict[int, Transcript]:
    """What an earlier call with the same reader left, by row; a line half written is left out."""
    if not file.is_file():
        return {}
    lines = file.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    found: dict[int, Transcript] = {}
    try:
        if json.loads(lines[0]) != task.about():
            return {}
        for line in lines[1:]:
            if line.endswith("\n"):
                item = Transcript(**json.loads(line))
                found[item.row] = item
    except (ValueError, TypeError, IndexError):
        raise UserError(f"{file} is damaged: remove it, and the clips are read again") from None
    return found
