"""Crops on disk: H.264 of 96 x 96 pixels at 25 pictures a second, and 16 kHz sound beside it.

Letters: T pictures, N samples.
"""

import os
from pathlib import Path

import numpy as np

from avssl.data.container import MediaError
from avssl.data.manifest import Clip
from avssl.data.media import read_clip_sound
from avssl.data.probe import probe_clip
from avssl.lips.frames import RATE

SAMPLE_RATE = 16000  # Hz
_KEYFRAMES = 25  # pictures from one keyframe to the next


def write_video(target: Path, crops: np.ndarray, *, quality: int) -> None:
    """Write crops uint8 RGB [T, 96, 96, 3] as an .mp4 without B-frames; whole or not at all.

    Args:
        quality: x264's crf; at 0 nothing of what was converted to yuv420p is lost.
    """
    import av

    options = {
        "crf": str(quality),
        "preset": "veryfast",
        "g": str(_KEYFRAMES),
        "bf": "0",
        "sc_threshold": "0",
        "tune": "fastdecode",  # half the time to read for 12% more bytes
    }
    partial = target.with_name(target.name + ".part")
    with av.open(str(partial), "w", format="mp4") as out:
        stream = out.add_stream("libx264", rate=RATE, options=options)
        stream.height, stream.width = crops.shape[1:3]
        stream.pix_fmt = "yuv420p"
        stream.codec_context.thread_count = 1
        for crop in crops:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(crop, format="rgb24")))
        out.mux(stream.encode())
    os.replace(partial, target)


def write_sound(target: Path, root: Path, clip: Clip, *, start: float, pictures: int) -> None:
    """Write the sound of `pictures` pictures from `start` (s) on: 640 samples for each.

    Args:
        root: folder of the clip's paths; clip: a scanned row that has sound.

    Raises:
        MediaError: the sound cannot be read.
    """
    import soundfile

    sound = read_clip_sound(
        root / clip.sound_path,
        clip,
        start=start,
        seconds=pictures / RATE,
        sample_rate=SAMPLE_RATE,
    )  # [N]
    partial = target.with_name(target.name + ".part")
    soundfile.write(partial, sound, SAMPLE_RATE, subtype="PCM_16", format="WAV")
    os.replace(partial, target)


def sound_row(root: Path, clip: Clip) -> Clip:
    """The scanned row that tells of a clip's sound, which may lie in a file of any format.

    Args:
        clip: the scanned row of the picture; its `wav` names the file.

    Raises:
        MediaError: the file cannot be read.
    """
    if not clip.wav or clip.wav.lower().endswith(".wav"):
        return clip
    sound = probe_clip(root, Clip(path=clip.wav))
    if not sound.has_audio:
        raise MediaError(f"sound: {sound.reason or 'has none'}")
    return sound
