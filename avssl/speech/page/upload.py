"""Reading an uploaded clip for the lip-reading page: in a process of its own.

Letters: T frames, H W height and width.
"""

import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from avssl.data.config import DataConfig
from avssl.data.container import MediaError
from avssl.data.manifest import Manifest
from avssl.data.usable import extent
from avssl.errors import UserError
from avssl.page.helper import Helper
from avssl.page.pictures import jpeg
from avssl.page.preview import plays, write_preview
from avssl.page.stretch import Stretch
from avssl.page.uploads import probe_upload
from avssl.speech.clip import SpeechClip, read_clip

COLUMNS = 25  # crops side by side in the sheet
_LIMIT = 120.0  # s for all of it


@dataclass(frozen=True)
class Talk:
    """What was read of an uploaded file."""

    clip: SpeechClip
    sheet: bytes = b""  # JPEG of all mouth crops, where lips are read
    spectrogram: bytes = b""  # PNG, where there is sound
    preview: bytes = b""  # MP4, where browsers do not play the file itself


def read_talk(path: Path, data: DataConfig, *, longest: float) -> Talk:
    """Read the inputs of `data` of a file.

    Args:
        longest: s; longer files are refused.

    Raises:
        MediaError: it is no media file, is damaged, too long or too large, lacks a stream, shows no
            face, or takes too much time or memory to read.
    """
    helper = Helper(seconds=_LIMIT)  # of this upload alone: none reaches the next visitor's
    try:
        return helper(read_here, path, data, longest)
    finally:
        helper.close()


def read_here(path: Path, data: DataConfig, longest: float) -> Talk:
    """The same in this process, at its own risk."""
    row = probe_upload(path, longest=longest)
    try:
        clip = read_clip(path, data, row=row)
    except UserError as error:
        raise MediaError(str(error)) from None
    sheet = b"" if clip.mouths is None else jpeg(_sheet(clip.mouths))
    start, seconds = extent(row, video=data.needs_video)
    file = Manifest(path.parent, [row]).sound_file(row)
    stretch = Stretch(path, file, row, start, start + seconds)
    spectrogram = stretch.spectrogram() if row.has_audio else b""
    return Talk(clip, sheet, spectrogram, b"" if plays(stretch) else _preview(stretch))


def _preview(stretch: Stretch) -> bytes:
    # beside the upload, whose folder goes even if this process is killed
    with tempfile.TemporaryDirectory(dir=stretch.file.parent) as folder:
        target = Path(folder) / "preview.mp4"
        write_preview(stretch, target)
        return target.read_bytes()


def _sheet(crops: np.ndarray) -> np.ndarray:
    """uint8 [T, H, H, 3] -> uint8 [rows * H, COLUMNS * H, 3], black behind the last one."""
    side = crops.shape[1]
    rows = -(-len(crops) // COLUMNS)
    black = np.zeros((rows * COLUMNS - len(crops), *crops.shape[1:]), np.uint8)
    grid = np.concatenate([crops, black]).reshape(rows, COLUMNS, side, side, 3)
    return grid.swapaxes(1, 2).reshape(rows * side, COLUMNS * side, 3)
