"""A part of a media file: where it is, and what the page draws of it."""

from dataclasses import dataclass
from pathlib import Path

from avssl.data.manifest import Clip
from avssl.data.media import read_clip_sound, read_pictures
from avssl.data.stills import READER
from avssl.page.pictures import SAMPLE_RATE, jpeg, moments, spectrogram

SIDE = 160  # pixels, short side of small pictures


@dataclass(frozen=True)
class Stretch:
    """Seconds `start` to `end` from a file's first picture (its first sample without one)."""

    file: Path
    sound_file: Path  # the file itself, or the wav beside it
    clip: Clip  # its scanned row
    start: float
    end: float

    @property
    def seconds(self) -> float:
        """Its length."""
        return self.end - self.start

    @property
    def still(self) -> bool:
        """Whether it is a picture, which has nothing to play."""
        return self.clip.reader == READER

    def spectrogram(self) -> bytes:
        """Of the sound, as a PNG.

        Raises:
            MediaError: it has none, or it cannot be read.
        """
        sound = read_clip_sound(
            self.sound_file,
            self.clip,
            start=self.start,
            seconds=self.seconds,
            sample_rate=SAMPLE_RATE,
        )  # [N]
        return spectrogram(sound)

    def strip(self, count: int) -> list[bytes]:
        """Pictures from all over the stretch, as JPEGs; of a still that one.

        Raises:
            MediaError: it has none, or they cannot be read.
        """
        times = moments(self.start, self.end, 1 if self.still else count)
        pictures = read_pictures(self.file, self.clip, times, short_side=SIDE)  # [K, H, W, 3]
        return [jpeg(picture) for picture in pictures]
