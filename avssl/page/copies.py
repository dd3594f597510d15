"""Copies of clips as H.264 and AAC, which every player plays, with something drawn on if need be.

Letters: H W height and width in pixels, N samples.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from avssl.data.container import opened
from avssl.data.manifest import Clip
from avssl.data.media import read_clip_sound, scaled_size
from avssl.data.pictures import converted, shown_pictures
from avssl.data.shards import media_source
from avssl.files import half_written
from avssl.page.stretch import Stretch

if TYPE_CHECKING:
    import av

_CLOCK = 90000  # Hz
_RATE = 44100  # Hz
Draw = Callable[[np.ndarray, float], np.ndarray]  # picture, s from the stretch's start -> picture


def write_copy(
    stretch: Stretch, target: Path, *, short_side: int, draw: Draw | None = None
) -> None:
    """Write a stretch to an .mp4; whole or not at all.

    Args:
        short_side: pixels of the copy's pictures.
        draw: changes each of them, uint8 [H, W, 3], keeping its size.

    Raises:
        MediaError: the file cannot be read.
    """
    import av

    partial = half_written(target)
    partial.touch()  # where it cannot be written, that is no fault of the clip
    with av.open(str(partial), "w", format="mp4", options={"movflags": "faststart"}) as out:
        # both streams first: the header is written with the first packet
        video = _video_stream(out, stretch.clip, short_side) if stretch.clip.has_video else None
        audio = out.add_stream("aac", rate=_RATE, layout="mono") if stretch.clip.has_audio else None
        if video is not None:
            _encode_pictures(out, video, stretch, draw)
        if audio is not None:
            _encode_sound(out, audio, stretch)
    os.replace(partial, target)


def _video_stream(out: av.container.OutputContainer, clip: Clip, short_side: int) -> av.VideoStream:
    stream = out.add_stream("libx264", rate=30, options={"preset": "veryfast", "crf": "23"})
    stream.width, stream.height = (
        max(2, side - side % 2) for side in scaled_size(clip, short_side)
    )
    stream.pix_fmt = "yuv420p"
    stream.codec_context.time_base = stream.time_base = Fraction(1, _CLOCK)
    return stream


def _encode_pictures(
    out: av.container.OutputContainer,
    stream: av.VideoStream,
    stretch: Stretch,
    draw: Draw | None,
) -> None:
    import av

    size, zero = (stream.width, stream.height), None
    with opened(media_source(stretch.file, stretch.clip)) as source:
        for time, frame in shown_pictures(source):
            zero = time if zero is None else zero
            if time - zero >= stretch.end:
                break
            seconds = time - zero - stretch.start
            if seconds < 0:
                continue
            image = converted(frame, size=size, rotation=stretch.clip.rotation)  # [H, W, 3]
            image = np.ascontiguousarray(draw(image, seconds) if draw else image)
            copy = av.VideoFrame.from_ndarray(image, format="rgb24")
            copy.pts, copy.time_base = round(seconds * _CLOCK), Fraction(1, _CLOCK)
            out.mux(stream.encode(copy))
    out.mux(stream.encode())


def _encode_sound(
    out: av.container.OutputContainer, stream: av.AudioStream, stretch: Stretch
) -> None:
    import av

    sound = read_clip_sound(
        stretch.sound_file,
        stretch.clip,
        start=stretch.start,
        seconds=stretch.seconds,
        sample_rate=_RATE,
    )  # [N]
    frame = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
    frame.sample_rate, frame.pts, frame.time_base = _RATE, 0, Fraction(1, _RATE)
    out.mux(stream.encode(frame))
    out.mux(stream.encode())
