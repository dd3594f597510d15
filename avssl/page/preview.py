"""Copies of clips that every browser plays, made when one is first looked at."""

import tempfile
import threading
from pathlib import Path
from typing import BinaryIO

from avssl.data.container import audio_stream, opened, video_stream
from avssl.data.shards import media_source
from avssl.page.copies import write_copy
from avssl.page.helper import BUSY, Helper
from avssl.page.refusal import Refusal
from avssl.page.stretch import Stretch

# containers and codecs that Chromium, Firefox and Safari all play
_PLAYED = {
    ".mp4": {"h264", "aac", "mp3"},
    ".m4v": {"h264", "aac", "mp3"},
    ".m4a": {"aac", "mp3"},
    ".webm": {"vp8", "vp9", "opus", "vorbis"},
    ".wav": {"pcm_s16le", "pcm_u8"},
    ".mp3": {"mp3"},
    ".flac": {"flac"},
}
_SHORT_SIDE = 360  # pixels, at most
_LIMIT = 90.0  # s that making a copy may take
_KEPT = 200  # copies; the one that was made first goes first


def plays(stretch: Stretch) -> bool:
    """Whether browsers play the file as it is.

    A wav beside a file that has sound of its own is as a rule a copy of that, for fast reading.
    """
    codecs = _PLAYED.get(stretch.file.suffix.lower())
    if codecs is None:
        return False
    with opened(media_source(stretch.file, stretch.clip)) as container:
        video, audio = video_stream(container), audio_stream(container)
        if audio is None and stretch.clip.has_audio:
            return False  # the sound is in the wav alone
        if video is not None and video.codec_context.pix_fmt not in ("yuv420p", "yuvj420p"):
            return False
        found = {stream.codec_context.name for stream in (video, audio) if stream is not None}
    return {_CANONICAL.get(name, name) for name in found} <= codecs


# names of FFmpeg's decoders that differ from the format they decode
_CANONICAL = {"mp3float": "mp3", "libvpx-vp9": "vp9", "libvpx": "vp8", "libopus": "opus"}


class Previews:
    """Playable copies in a folder that goes when the process ends."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="avssl-preview-")
        self._write = Helper(seconds=_LIMIT)
        self._lock = threading.Lock()  # one copy is made at a time
        self._made: dict[int, Path] = {}

    def open(self, number: int, stretch: Stretch) -> BinaryIO:
        """The copy of clip `number`, open: it can be read even if it goes in between.

        Raises:
            MediaError: none can be made.
            Refusal: other copies are being made.
        """
        if not self._lock.acquire(timeout=_LIMIT):
            raise Refusal(503, BUSY)
        try:
            if number not in self._made:
                target = Path(self._folder.name) / f"{number}.mp4"
                self._write(write_preview, stretch, target)
                self._made[number] = target
                while len(self._made) > _KEPT:
                    self._made.pop(next(iter(self._made))).unlink()
            return open(self._made[number], "rb")
        finally:
            self._lock.release()


def write_preview(stretch: Stretch, target: Path) -> None:
    """Write a stretch small, as browsers play it.

    Raises:
        MediaError: the file cannot be read.
    """
    clip = stretch.clip
    short = min(_SHORT_SIDE, clip.width or _SHORT_SIDE, clip.height or _SHORT_SIDE)
    write_copy(stretch, target, short_side=short)
