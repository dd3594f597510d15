"""Reading an uploaded file: in a process of its own, and media files only."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from avssl.data.config import DataConfig
from avssl.data.container import MediaError
from avssl.data.dataset import ClipDataset
from avssl.data.manifest import Manifest
from avssl.data.stills import SUFFIXES
from avssl.data.usable import extent
from avssl.encoders.windows import given_clips
from avssl.page.helper import Helper
from avssl.page.pictures import jpeg
from avssl.page.stretch import SIDE, Stretch
from avssl.page.uploads import probe_upload, refuse_large

_STILL_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # others run programs, or name files
_LIMIT = 90.0  # s for all of it
STRIP = 6  # pictures


@dataclass(frozen=True)
class Upload:
    """What was read of an uploaded file."""

    has_audio: bool
    has_video: bool
    seconds: float  # 0: a still
    reason: str = ""  # in brackets, why a stream that it has cannot be used
    inputs: dict[str, np.ndarray] = field(default_factory=dict)  # raw, of its middle window
    spectrogram: bytes = b""  # PNG, where it has sound
    strip: list[bytes] = field(default_factory=list)  # JPEGs, where it has pictures


def read_upload(path: Path, data: DataConfig, *, longest: float) -> Upload:
    """Look at a file and read the inputs of `data`; they are empty where it lacks the stream.

    Args:
        longest: s; longer files are refused.

    Raises:
        MediaError: it is neither a media file nor a picture, is damaged, too long or too large,
            or takes too much time or memory to read.
    """
    helper = Helper(seconds=_LIMIT)  # of this upload alone: none reaches the next visitor's
    try:
        return helper(_read, path, data, longest)
    finally:
        helper.close()


def _read(path: Path, data: DataConfig, longest: float) -> Upload:
    """In the helper process."""
    if path.suffix in SUFFIXES:
        return _read_still(path, data)
    clip = probe_upload(path, longest=longest)
    start, seconds = extent(clip, video=bool(clip.has_video))
    if not seconds > 0:
        raise MediaError("it lasts no time at all")
    files = Manifest(path.parent, [clip])
    stretch = Stretch(path, files.sound_file(clip), clip, start, start + seconds)
    found: dict[str, np.ndarray] = {}
    if (clip.has_audio or not data.needs_audio) and (clip.has_video or not data.needs_video):
        # the window that clips of the index are encoded by
        sample = ClipDataset(files, data, split=None, replace=False)[0, 0]
        if not sample.inputs:
            raise MediaError(sample.failures[0][1])
        found = sample.inputs
    return Upload(
        has_audio=bool(clip.has_audio),
        has_video=bool(clip.has_video),
        seconds=seconds,
        reason=f" ({clip.reason})" if clip.reason else "",
        inputs=found,
        spectrogram=stretch.spectrogram() if clip.has_audio else b"",
        strip=stretch.strip(STRIP) if clip.has_video else [],
    )


def _read_still(path: Path, data: DataConfig) -> Upload:
    """A picture, which is a clip that does not move."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path, formats=_STILL_FORMATS) as image:
            refuse_large(*image.size)
            upright = ImageOps.exif_transpose(image).convert("RGB")
    except Image.DecompressionBombError as error:
        raise MediaError(f"it is too large a picture ({error})") from None
    except (UnidentifiedImageError, OSError, SyntaxError):
        raise MediaError("it is no picture, or a damaged one") from None
    found: dict[str, np.ndarray] = {}
    if not data.needs_audio:
        pictures = np.asarray(upright)[None]  # [1, H, W, 3]
        _, windows = given_clips(pictures, data, sample_rate=None, fps=1.0, span="middle")
        found = next(windows)[1]
    upright.thumbnail((2 * SIDE, 2 * SIDE))
    strip = [jpeg(np.asarray(upright))]
    return Upload(has_audio=False, has_video=True, seconds=0.0, inputs=found, strip=strip)
