"""A clip as files: H.264 and AAC in an mp4, and beside it the wav of exactly that AAC track."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

SAMPLE_RATE = 16000


def clip_path(root: Path, split: str, index: int) -> Path:
    """Where a clip's mp4 lies; its wav has the same name."""
    return root / "clips" / split / f"{index:05d}.mp4"


def write_clip(
    path: Path, frames: np.ndarray, sound: np.ndarray, *, fps: int, quality: int
) -> None:
    """Write a clip's mp4 and wav. Both files appear whole or not at all, the wav last.

    Args: as for `write_mp4`.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.mp4")
    write_mp4(partial, frames, sound, fps=fps, quality=quality)
    sound = decode_sound(partial)
    os.replace(partial, path)
    partial = path.with_suffix(".part.wav")
    write_wav(partial, sound)
    os.replace(partial, path.with_suffix(".wav"))


def write_silent_clip(path: Path, frames: np.ndarray, *, fps: int, quality: int) -> None:
    """Write the mp4 of a clip without sound, whole or not at all. Args and errors: `write_clip`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.mp4")
    write_mp4(partial, frames, None, fps=fps, quality=quality)
    os.replace(partial, path)


def write_mp4(
    path: Path, frames: np.ndarray, sound: np.ndarray | None, *, fps: int, quality: int
) -> None:
    """Encode frames, uint8 [T, H, W, 3], and sound, float32 [S] at 16 kHz, from time 0.

    Args:
        path: of the mp4.
        frames: as above.
        sound: as above; None: no track of it.
        fps: pictures per second, and pictures from one keyframe to the next.
        quality: constant rate factor of H.264: 0 without loss, 51 worst.
    """
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=fps)
        video.height, video.width = frames.shape[1:3]
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "ultrafast", "crf": str(quality), "g": str(fps)}
        video.codec_context.thread_count = 1
        if sound is not None:
            audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
            audio.bit_rate = 64000
            audio.options = {"aac_coder": "fast"}
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
        if sound is not None:
            block = av.AudioFrame.from_ndarray(sound[None], format="fltp", layout="mono")
            block.sample_rate, block.pts = SAMPLE_RATE, 0
            container.mux(audio.encode(block))
            container.mux(audio.encode())


def decode_sound(path: Path) -> np.ndarray:
    """The container's sound from time 0 on, float32 [S]: without the encoder's delay."""
    import av

    with av.open(str(path)) as container:
        pieces = [(frame.pts, frame.to_ndarray()[0]) for frame in container.decode(audio=0)]
    assert pieces[0][0] == 0, f"{path}: the sound starts at sample {pieces[0][0]}"
    return np.concatenate([piece for _, piece in pieces])


def write_wav(path: Path, sound: np.ndarray) -> None:
    """16-bit mono wav."""
    import soundfile

    soundfile.write(path, sound, SAMPLE_RATE, subtype="PCM_16")
