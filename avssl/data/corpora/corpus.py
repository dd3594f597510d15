"""What a built-in corpus is: a name, a version, sizes of its splits, how a clip is rendered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from pathlib import Path

from avssl.data.corpora.files import clip_path
from avssl.data.manifest import Clip
from avssl.errors import UserError

MOST = 200_000  # clips; 30 GB


class Corpus(ABC):
    """A clip is a function of (corpus seed, split, index); the files are the same everywhere."""

    name: str
    version: int  # raise it with any change that alters a clip
    clips: int  # of `corpus:NAME`
    parts: tuple[int, int, int]  # train : val : test
    step: int  # val and test are multiples of it
    clip_bytes: int  # of one clip with its wav, generously

    def sizes(self, clips: int | None) -> dict[str, int]:
        """Clips per split; the full corpus when None.

        Raises:
            UserError: too few or too many.
        """
        clips = self.clips if clips is None else clips
        if not 3 * self.step <= clips <= MOST:
            raise UserError(
                f"corpus '{self.name}-{clips}' must have {3 * self.step} ({self.step} clips in "
                f"each split) to {MOST:,} clips"
            )
        _, val, test = (
            max(self.step, round(clips * part / sum(self.parts) / self.step) * self.step)
            for part in self.parts
        )
        return {"train": clips - val - test, "val": val, "test": test}

    def missing(self, root: Path, split: str, index: int) -> bool:
        """Whether the clip has yet to be rendered; its wav appears last."""
        return not clip_path(root, split, index).with_suffix(".wav").exists()

    def check(self) -> None:  # noqa: B027
        """Raise UserError when a package that rendering needs is not installed."""

    @abstractmethod
    def render(self, root: Path, split: str, index: int, *, seed: int) -> None:
        """Render one clip below `root`; whole or not at all. OSError when it cannot be written."""

    @abstractmethod
    def row(self, root: Path, split: str, index: int, *, seed: int) -> Clip:
        """The manifest's row of a rendered clip."""

    @abstractmethod
    def sheet(self, path: Path, *, seed: int) -> None:
        """Draw the contact sheet, a png."""
