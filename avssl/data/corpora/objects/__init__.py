"""The corpus `objects`: sixteen kinds of objects in ten motions, without sound."""

from __future__ import annotations

from pathlib import Path

from avssl.data.corpora.corpus import Corpus
from avssl.data.corpora.files import clip_path, write_silent_clip
from avssl.data.corpora.objects.picture import (
    FPS,
    FRAMES,
    SIZE,
    kind_and_motion,
    make_moving,
    make_picture,
)
from avssl.data.corpora.objects.silhouettes import SILHOUETTES
from avssl.data.manifest import Clip


class Objects(Corpus):
    """5,440 clips of 2 s; the label is the kind, the column `motion` how it moves."""

    name = "objects"
    version = 1
    clips = 5440
    parts = (13, 1, 3)
    step = len(SILHOUETTES)
    clip_bytes = 40_000

    def missing(self, root: Path, split: str, index: int) -> bool:
        """The mp4 is all there is."""
        return not clip_path(root, split, index).exists()

    def render(self, root: Path, split: str, index: int, *, seed: int) -> None:
        """The pictures of one clip."""
        frames = make_picture(make_moving(split, index, seed=seed))
        write_silent_clip(clip_path(root, split, index), frames, fps=FPS, quality=23)

    def row(self, root: Path, split: str, index: int, *, seed: int) -> Clip:
        """Of a clip that is there: its kind and motion follow from its number."""
        del seed
        kind, motion = kind_and_motion(index)
        return Clip(
            path=clip_path(root, split, index).relative_to(root).as_posix(),
            label=kind,
            split=split,
            reader="pyav",  # for pictures this small faster than decord, see data/probe.py
            has_video=True,
            has_audio=False,
            duration=FRAMES / FPS,
            fps=float(FPS),
            frames=FRAMES,
            width=SIZE,
            height=SIZE,
            extra={"motion": motion},
        )

    def sheet(self, path: Path, *, seed: int) -> None:
        """Stills of each kind, and one clip of it."""
        from avssl.data.corpora.objects.sheet import contact_sheet

        contact_sheet(path, seed=seed)
