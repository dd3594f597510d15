"""Looking at an uploaded file before it is searched with: in another process, with a time limit."""

from functools import partial
from pathlib import Path

from avssl.data.container import MediaError
from avssl.data.manifest import Clip
from avssl.data.pool import Failure, guarded_map
from avssl.data.probe import probe_clip

# FFmpeg's demuxers of files that hold media; left out are playlists, which name other files
_FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,asf,ogg,wav,w64,flac,mp3,aac,ac3,aiff,au,caf,amr,"
    "wv,gif,nut,mxf,rm,ivf,y4m"
)
_LIMIT = 60.0  # s for decoding it once


def inspect(path: Path, *, longest: float) -> Clip:
    """The scanned row of an uploaded file, whose path is relative to the file's folder.

    Args:
        longest: s; longer files are refused.

    Raises:
        MediaError: it is no media file, is damaged, too long, or takes too long to decode.
    """
    look = partial(_look, longest=longest)
    for _, clip in guarded_map(look, [path], workers=1, limit=_LIMIT):
        if isinstance(clip, Failure):
            raise MediaError(clip.reason)
        return clip
    raise AssertionError("one item has one result")


def _look(path: Path, *, longest: float) -> Clip:
    import av

    if path.stat().st_size == 0:
        raise MediaError("the file is empty")
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        with av.open(str(path), metadata_errors="ignore", options=options) as container:
            seconds = (container.duration or 0) / av.time_base
    except (av.error.FFmpegError, ValueError):
        raise MediaError("it is no video or sound file, or a damaged one") from None
    if seconds <= longest:  # not every file says how long it is
        clip = probe_clip(path.parent, Clip(path=path.name))
        if not clip.has_video and not clip.has_audio:
            raise MediaError(clip.reason.removeprefix("sound: ").removeprefix("picture: "))
        seconds = max(clip.duration or 0.0, clip.sound_duration or 0.0)
    if seconds > longest:
        raise MediaError(
            f"it lasts {seconds / 60:.1f} minutes, this page takes up to {longest / 60:g} minutes"
        )
    return clip
