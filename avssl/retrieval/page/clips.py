"""Clips of the index to see and hear; what their files do to a decoder, they do in a helper."""

import functools
import secrets
from pathlib import Path
from typing import BinaryIO

from avssl.data.container import MediaError
from avssl.data.manifest import Clip, Manifest
from avssl.data.shards import open_media, stored_in
from avssl.data.usable import extent
from avssl.errors import UserError
from avssl.page.helper import Helper, without_folder
from avssl.page.preview import Previews, plays
from avssl.page.refusal import Refusal
from avssl.page.stretch import Stretch
from avssl.retrieval.page.upload import STRIP
from avssl.retrieval.search import Search

_SHOWN = 60.0  # s of a clip, at most
_DRAW = 20.0  # s that drawing one may take
_LOOK = 5.0  # s that finding out whether browsers play one may take


class Clips:
    """What is shown of the clips of one index; may be asked from several threads."""

    def __init__(self, search: Search) -> None:
        self._search = search
        self._draw, self._look = Helper(seconds=_DRAW), Helper(seconds=_LOOK)
        self._previews = Previews()
        self._pictures = functools.lru_cache(maxsize=1024)(self._drawn)
        self._played = functools.lru_cache(maxsize=4096)(self._playable)
        self._version = secrets.token_hex(4)  # browsers keep media: not those of another index

    def stretch(self, number: int) -> Stretch:
        """Where a clip of the index lies: the only files that are ever served.

        Raises:
            Refusal: there is no such clip.
        """
        try:
            clip, root = self._search.clip(number), self._search.root(number)
        except UserError:
            raise Refusal(404, "The index has no such clip.") from None
        files = Manifest(root, [clip])
        start, seconds = extent(clip, video=bool(clip.has_video))
        # found by its middle window: of a long clip, the minute around that is shown
        start, seconds = start + max(0.0, seconds - _SHOWN) / 2, min(seconds, _SHOWN)
        return Stretch(files.file(clip), files.sound_file(clip), clip, start, start + seconds)

    def there(self, number: int) -> bool:
        """Whether the clip's file, or its tar, is still there."""
        stretch = self.stretch(number)
        return stored_in(stretch.file, stretch.clip).is_file()

    def size(self, number: int) -> int:
        """Bytes of the clip's file or member if browsers play it as it is, else 0."""
        return self._played(number) if self.there(number) else 0

    def start(self, number: int) -> float:
        """Second at which the clip begins in what `media` gives."""
        return self.stretch(number).start if self.size(number) else 0.0

    def url(self, kind: str, number: int) -> str:
        """Where the "media", "spectrogram" or "poster" of a clip is had."""
        return f"api/{kind}/{number}?{self._version}"

    def media(self, number: int) -> BinaryIO:
        """A file of the clip that browsers play, open: the clip's own (of a member of a tar, its
        bytes alone), or a copy.

        Raises:
            Refusal: there is no such clip, it is a picture, or it cannot be read.
        """
        stretch = self.stretch(number)
        if stretch.still:
            raise Refusal(404, f"{stretch.clip.path} is a picture: there is nothing to play.")
        try:
            if self.size(number):
                return open_media(stretch.file, stretch.clip)
            if self.there(number):
                return self._previews.open(number, stretch)
        except FileNotFoundError:
            pass
        except MediaError as error:
            reason = without_folder(error, self._search.root(number))
            raise Refusal(422, f"{stretch.clip.path} cannot be played: {reason}.") from None
        raise _gone(stretch.clip)

    def pictures(self, kind: str, number: int) -> list[bytes]:
        """The "spectrogram" (one PNG), "poster" (one JPEG) or "strip" of a clip of the index.

        Raises:
            Refusal: there is no such clip, or it has nothing of the kind.
        """
        stretch = self.stretch(number)
        if not self.there(number):
            raise _gone(stretch.clip)
        found = self._pictures(kind, number)
        if isinstance(found, str):
            raise Refusal(422, f"{stretch.clip.path} cannot be shown: {found}.")
        return found

    def _drawn(self, kind: str, number: int) -> list[bytes] | str:
        """Pictures, or why there are none, so that nothing is tried twice."""
        stretch = self.stretch(number)
        try:
            if kind == "spectrogram":
                return [self._draw(Stretch.spectrogram, stretch)]
            return self._draw(Stretch.strip, stretch, STRIP if kind == "strip" else 1)
        except MediaError as error:
            return without_folder(error, self._search.root(number))

    def _playable(self, number: int) -> int:
        stretch = self.stretch(number)
        try:
            size = stretch.clip.tar_bytes
            size = stretch.file.stat().st_size if size is None else size
            return size if not stretch.still and self._look(plays, stretch) else 0
        except (MediaError, OSError):
            return 0


def _gone(clip: Clip) -> Refusal:
    return Refusal(404, f"{Path(clip.path).name} is not there any more.")
