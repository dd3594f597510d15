"""The corpus `scenes`: sounding bodies, seen and heard."""

from __future__ import annotations

from pathlib import Path

from avssl.data.corpora.corpus import Corpus
from avssl.data.corpora.files import clip_path, write_clip
from avssl.data.corpora.scenes.picture import make_picture
from avssl.data.corpora.scenes.scene import CLASSES, FPS, FRAMES, SECONDS, make_scene, pitch
from avssl.data.corpora.scenes.sound import make_sound
from avssl.data.corpora.scenes.stage import SIZE
from avssl.data.manifest import Clip


class Scenes(Corpus):
    """2,600 clips of 3 s in eight classes."""

    name = "scenes"
    version = 2
    clips = 2600
    parts = (10, 1, 2)
    step = len(CLASSES)
    clip_bytes = 160_000

    def render(self, root: Path, split: str, index: int, *, seed: int) -> None:
        """Picture and sound of one scene."""
        scene = make_scene(split, index, seed=seed)
        write_clip(
            clip_path(root, split, index),
            make_picture(scene),
            make_sound(scene),
            fps=FPS,
            quality=30,
        )

    def row(self, root: Path, split: str, index: int, *, seed: int) -> Clip:
        """The extra columns are the scene's numbers."""
        scene = make_scene(split, index, seed=seed)
        path = clip_path(root, split, index).relative_to(root)
        return Clip(
            path=path.as_posix(),
            label=scene.name,
            text=scene.text,
            split=split,
            reader="pyav",  # for pictures this small faster than decord, see data/probe.py
            has_video=True,
            has_audio=True,
            duration=SECONDS,
            fps=float(FPS),
            frames=FRAMES,
            width=SIZE,
            height=SIZE,
            wav=path.with_suffix(".wav").as_posix(),
            sound_duration=SECONDS,
            extra={
                "radius": f"{scene.radius:.4f}",
                "pitch": f"{pitch(scene.radius):.1f}",
                "material": f"{scene.material:.3f}",
                "distance": f"{scene.distance:.3f}",
                "room": f"{scene.room:.3f}",
                "effort": f"{scene.effort:.3f}",
            },
        )

    def sheet(self, path: Path, *, seed: int) -> None:
        """Two clips of each class."""
        from avssl.data.corpora.scenes.sheet import contact_sheet

        contact_sheet(path, seed=seed)
