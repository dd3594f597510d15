"""Reading an uploaded file: in another process, with a time limit, and media files only."""

from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np

from avssl.data.config import DataConfig
from avssl.data.container import MediaError
from avssl.data.dataset import ClipDataset, extent
from avssl.data.manifest import Clip, Manifest
from avssl.data.pool import Failure, guarded_map
from avssl.data.probe import probe_clip
from avssl.retrieval.page.stretch import Stretch

# FFmpeg's demuxers of files that hold media; left out are playlists, which name other files
_FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,asf,ogg,wav,w64,flac,mp3,aac,ac3,"
    "aiff,au,caf,amr,wv,gif,nut,mxf,rm,ivf,y4m"
)
_LIMIT = 90.0  # s for all of it
STRIP = 6  # pictures


@dataclass(frozen=True)
class Upload:
    """What was read of an uploaded file."""

    has_audio: bool
    has_video: bool
    seconds: float
    reason: str = ""  # in brackets, why a stream that it has cannot be used
    inputs: dict[str, np.ndarray] = field(default_factory=dict)  # raw, of its middle window
    spectrogram: bytes = b""  # PNG, where it has sound
    strip: list[bytes] = field(default_factory=list)  # JPEGs, where it has pictures


def read_upload(path: Path, data: DataConfig, *, longest: float) -> Upload:
    """Look at a file and read the inputs of `data`; they are empty where it lacks the stream.

    Args:
        longest: s; longer files are refused.

    Raises:
        MediaError: it is no media file, is damaged, too long, or takes too long to read.
    """
    read = partial(_read, data=data, longest=longest)
    for _, upload in guarded_map(read, [path], workers=1, limit=_LIMIT):
        if isinstance(upload, Failure):
            raise MediaError(upload.reason)
        return upload
    raise AssertionError("one item has one result")


def _read(path: Path, *, data: DataConfig, longest: float) -> Upload:
    """In the helper process."""
    import torch

    torch.set_num_threads(1)
    clip = _probe(path, longest=longest)
    start, seconds = extent(clip, video=bool(clip.has_video))
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


def _probe(path: Path, *, longest: float) -> Clip:
    """The file's scanned row; its beginning is looked at before all of it is decoded."""
    import av

    if path.stat().st_size == 0:
        raise MediaError("the file is empty")
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        with av.open(str(path), metadata_errors="ignore", options=options) as container:
            seconds = (container.duration or 0) / av.time_base
    except (av.error.FFmpegError, ValueError):
        raise MediaError("it is no video or sound file, or a damaged one") from None
    clip = Clip(path=path.name)
    if seconds <= longest:  # not every file says how long it is
        clip = probe_clip(path.parent, clip)
        if not clip.has_video and not clip.has_audio:
            raise MediaError(clip.reason.removeprefix("sound: ").removeprefix("picture: "))
        seconds = max(clip.duration or 0.0, clip.sound_duration or 0.0)
    if seconds > longest:
        raise MediaError(
            f"it lasts {seconds / 60:.1f} minutes, this page takes up to {longest / 60:g} minutes"
        )
    return clip
