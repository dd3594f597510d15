"""Copies of clips that every browser plays, made when one is first looked at.

Letters: H W height and width in pixels, N samples.
"""

import os
import tempfile
import threading
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from avssl.data.container import audio_stream, opened, video_stream
from avssl.data.manifest import Clip
from avssl.data.media import read_clip_sound, scaled_size
from avssl.data.pictures import converted, shown_pictures
from avssl.retrieval.page.helper import BUSY, Helper
from avssl.retrieval.page.refusal import Refusal
from avssl.retrieval.page.stretch import Stretch

if TYPE_CHECKING:
    import av

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
_CLOCK = 90000  # Hz
_RATE = 44100  # Hz
_LIMIT = 90.0  # s that making a copy may take
_KEPT = 200  # copies; the one that was made first goes first


def plays(stretch: Stretch) -> bool:
    """Whether browsers play the file as it is.

    A wav beside a file that has sound of its own is as a rule a copy of that, for fast reading.
    """
    codecs = _PLAYED.get(stretch.file.suffix.lower())
    if codecs is None:
        return False
    with opened(stretch.file) as container:
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
    """Write a stretch to an .mp4 as H.264 and AAC; whole or not at all.

    Raises:
        MediaError: the file cannot be read.
    """
    import av

    end = stretch.end
    partial = target.with_name(target.name + ".part")
    with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as out:
        # both streams first: the header is written with the first packet
        video = _video_stream(out, stretch.clip) if stretch.clip.has_video else None
        audio = out.add_stream("aac", rate=_RATE, layout="mono") if stretch.clip.has_audio else None
        if video is not None:
            _encode_pictures(out, video, stretch, end)
        if audio is not None:
            _encode_sound(out, audio, stretch, end)
    os.replace(partial, target)


def _video_stream(out: "av.container.OutputContainer", clip: Clip) -> "av.VideoStream":
    stream = out.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "23"})
    short = min(_SHORT_SIDE, clip.width or _SHORT_SIDE, clip.height or _SHORT_SIDE)
    stream.width, stream.height = (max(2, side - side % 2) for side in scaled_size(clip, short))
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = stream.time_base = Fraction(1, _CLOCK)
    return stream


def _encode_pictures(
    out: "av.container.OutputContainer", stream: "av.VideoStream", stretch: Stretch, end: float
) -> None:
    import av

    size, zero = (stream.width, stream.height), None
    with opened(stretch.file) as source:
        for time, frame in shown_pictures(source):
            zero = time if zero is None else zero
            if time - zero >= end:
                break
            if time - zero < stretch.start:
                continue
            image = converted(frame, size=size, rotation=stretch.clip.rotation)  # [H, W, 3]
            copy = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            copy.pts = round((time - zero - stretch.start) * _CLOCK)
            copy.time_base = Fraction(1, _CLOCK)
            out.mux(stream.encode(copy))
    out.mux(stream.encode())


def _encode_sound(
    out: "av.container.OutputContainer", stream: "av.AudioStream", stretch: Stretch, end: float
) -> None:
    import av

    sound = read_clip_sound(
        stretch.sound_file,
        stretch.clip,
        start=stretch.start,
        seconds=end - stretch.start,
        sample_rate=_RATE,
    )  # [N]
    frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = _RATE, 0, Fraction(1, _RATE)
    out.mux(stream.encode(frame))
    out.mux(stream.encode())
