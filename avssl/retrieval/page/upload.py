"""Reading an uploaded file: in a process of its own, and media files only."""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from avssl.data.config import DataConfig
from avssl.data.container import MediaError, video_stream
from avssl.data.dataset import ClipDataset, extent
from avssl.data.manifest import Clip, Manifest
from avssl.data.probe import probe_clip
from avssl.encoders.windows import PICTURES, given_clips
from avssl.retrieval.page.helper import Helper
from avssl.retrieval.page.pictures import jpeg
from avssl.retrieval.page.stretch import SIDE, Stretch

# FFmpeg's demuxers of files that hold media; left out are playlists, which name other files
_FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,asf,ogg,wav,w64,flac,mp3,aac,ac3,"
    "aiff,au,caf,amr,wv,gif,nut,mxf,rm,ivf,y4m"
)
_STILLS = PICTURES - {".gif"}  # FFmpeg reads these, for they may move
_STILL_FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF")  # others run programs, or name files
_PIXELS = 50_000_000  # of a picture: what is larger is refused before it is decoded
_NARROW = 30  # times as long as wide: pictures are scaled by their shorter side
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
    if path.suffix in _STILLS:
        return _read_still(path, data)
    clip = _probe(path, longest=longest)
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
            _refuse_large(*image.size)
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


def _probe(path: Path, *, longest: float) -> Clip:
    """The file's scanned row; its beginning is looked at before all of it is decoded."""
    import av

    if path.stat().st_size == 0:
        raise MediaError("the file is empty")
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        with av.open(str(path), metadata_errors="ignore", options=options) as container:
            seconds = (container.duration or 0) / av.time_base
            stream = video_stream(container)
            if stream is not None:
                _refuse_large(stream.codec_context.width, stream.codec_context.height)
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


def _refuse_large(width: int, height: int) -> None:
    if width * height > _PIXELS:
        raise MediaError(
            f"its pictures have {width} x {height} pixels, this page takes up to "
            f"{_PIXELS // 1_000_000} million"
        )
    if max(width, height) > _NARROW * max(1, min(width, height)):
        raise MediaError(
            f"its pictures have {width} x {height} pixels, this page takes none more than "
            f"{_NARROW} times as long as wide"
        )
