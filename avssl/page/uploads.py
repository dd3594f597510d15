"""What an uploaded file holds, and which ones are refused: media files only, of bearable size."""

from pathlib import Path

from avssl.data.container import MediaError, video_stream
from avssl.data.manifest import Clip
from avssl.data.probe import probe_clip

# FFmpeg's demuxers of files that hold media; left out are playlists, which name other files
_FORMATS = (
    "mov,matroska,avi,mpeg,mpegts,mpegvideo,m4v,h264,hevc,flv,asf,ogg,wav,w64,flac,mp3,aac,ac3,"
    "aiff,au,caf,amr,wv,gif,nut,mxf,rm,ivf,y4m"
)
_PIXELS = 50_000_000  # of a picture: what is larger is refused before it is decoded
_NARROW = 30  # times as long as wide: pictures are scaled by their shorter side


def probe_upload(path: Path, *, longest: float) -> Clip:
    """The file's scanned row; its beginning is looked at before all of it is decoded.

    Args:
        longest: s.

    Raises:
        MediaError: it is no medium, is damaged, too long or too large.
    """
    import av

    if path.stat().st_size == 0:
        raise MediaError("the file is empty")
    options = {"protocol_whitelist": "file", "format_whitelist": _FORMATS}
    try:
        with av.open(str(path), metadata_errors="ignore", options=options) as container:
            seconds = (container.duration or 0) / av.time_base
            stream = video_stream(container)
            if stream is not None:
                refuse_large(stream.codec_context.width, stream.codec_context.height)
    except (av.error.FFmpegError, ValueError):
        raise MediaError("it is no video or sound file, or a damaged one") from None
    clip = Clip(path=path.name)
    if seconds <= longest:  # not every file says how long it is
        clip = probe_clip(path.parent, clip)
        if not clip.has_video and not clip.has_audio:
            raise MediaError(clip.reason.removeprefix("sound: ").removeprefix("picture: "))
        seconds = max(clip.duration or 0.0, clip.sound_duration or 0.0)
    if seconds > longest:
        raise MediaError(f"it lasts {_spoken(seconds)}, this page takes up to {_spoken(longest)}")
    return clip


def refuse_large(width: int, height: int) -> None:
    """Raises MediaError for pictures too large to decode, or too narrow to scale."""
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


def _spoken(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{round(seconds / 60, 1):g} minutes"
