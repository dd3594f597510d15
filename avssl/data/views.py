"""Views of a clip for testing: several places in its time, each with one or three crops."""

from dataclasses import dataclass


@dataclass(frozen=True)
class View:
    """One view of a clip; the default is the middle, once.

    Attributes:
        number: which of `count` places in time, from 0.
        crop: where the square crop lies along the longer side, from 0 to 1.
    """

    number: int = 0
    count: int = 1
    crop: float = 0.5

    @property
    def place(self) -> float:
        """Where a stretch lies in the clip: from 0 for the first view to 1 for the last."""
        return 0.5 if self.count == 1 else self.number / (self.count - 1)

    @property
    def offset(self) -> float:
        """Where pictures lie in each of the equal parts of a clip, from 0 to 1."""
        return (self.number + 0.5) / self.count


@dataclass(frozen=True)
class Views:
    """How many views of each clip a test averages.

    VideoMAE and MVD (arXiv 2212.04500) take 5 clips of 3 crops on Kinetics, 2 of 3 on
    Something-Something.

    Attributes:
        clips: places, evenly spread over the clip.
        crops: 1, the centre, or 3: both ends of the longer side, too.
    """

    clips: int = 1
    crops: int = 1

    def __post_init__(self) -> None:
        if self.clips < 1:
            raise ValueError(f"clips must be at least 1, found {self.clips}.")
        if self.crops not in (1, 3):
            raise ValueError(f"crops is 1, the centre, or 3, found {self.crops}.")

    def __len__(self) -> int:
        return self.clips * self.crops

    def __getitem__(self, number: int) -> View:
        """The crops of the first place come first."""
        clip, crop = divmod(number, self.crops)
        return View(clip, self.clips, 0.5 if self.crops == 1 else crop / 2)
