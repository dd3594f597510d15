"""One clip as files: H.264 and AAC in an mp4, and beside it the wav of exactly that AAC track."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from avssl.data.corpora.picture import SIZE, make_picture
from avssl.data.corpora.scene import FPS, make_scene
from avssl.data.corpora.sound import SAMPLE_RATE, make_sound


def clip_path(root: Path, split: str, index: int) -> Path:
    """Where a clip's mp4 lies; its wav has the same name."""
    return root / "clips" / split / f"{index:05d}.mp4"


def render_clip(root: Path, split: str, index: int, *, seed: int) -> None:
    """Render one clip below `root`. Both files appear whole or not at all, the wav last.

    Raises:
        OSError: the disk is full, or the folder cannot be written.
    """
    scene = make_scene(split, index, seed=seed)
    path = clip_path(root, split, index)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".part.mp4")
    write_mp4(partial, make_picture(scene), make_sound(scene))
    sound = decode_sound(partial)
    os.replace(partial, path)
    partial = path.with_suffix(".part.wav")
    write_wav(partial, sound)
    os.replace(partial, path.with_suffix(".wav"))


def write_mp4(path: Path, frames: np.ndarray, sound: np.ndarray) -> None:
    """Encode frames, uint8 [T, H, W, 3] at `FPS`, and sound, float32 [S] at 16 kHz, from time 0."""
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=FPS)
        video.width = video.height = SIZE
        video.pix_fmt = "yuv420p"
        video.options = {"preset": "ultrafast", "crf": "30", "g": str(FPS)}
        video.codec_context.thread_count = 1
        audio = container.add_stream("aac", rate=SAMPLE_RATE, layout="mono")
        audio.bit_rate = 64000
        audio.options = {"aac_coder": "fast"}
        for frame in frames:
            container.mux(video.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(video.encode())
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
