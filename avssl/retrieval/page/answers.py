"""What the page's requests are answered with: searches, and clips of the index to see and hear.

Nothing is kept of a request: each brings its query along, so that users cannot meet in anything.
"""

import base64
import functools
import itertools
import random
import secrets
import tempfile
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from avssl.data.batches import finish_inputs, stack_inputs
from avssl.data.container import MediaError
from avssl.data.dataset import extent
from avssl.data.manifest import Manifest
from avssl.errors import UserError
from avssl.retrieval.page.preview import Previews, plays
from avssl.retrieval.page.stretch import Stretch
from avssl.retrieval.page.upload import STRIP, read_upload
from avssl.retrieval.search import OTHER, Match, Search

_MATCHES = 12
_EXAMPLES = 12
_COMPARED = 20_000  # similarities behind the heat map, the highest ones in a larger index
_SHOWN = 60.0  # s of a clip, at most
_CELLS = 48  # of the heat map
_WORDS = {"audio": "sound", "video": "picture"}


@dataclass(frozen=True)
class Limits:
    """What the page takes."""

    upload: int = 50_000_000  # bytes
    seconds: float = 600.0  # of an uploaded clip
    recording: float = 10.0  # s after which the microphone is switched off


class Refusal(Exception):
    """A request that gets a sentence instead of an answer, and its HTTP status."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Page:
    """Answers for one index; its methods may be called from several threads.

    Attributes:
        search: the opened index. title: one line on it, shown on top of the page.
    """

    def __init__(self, search: Search, *, limits: Limits | None = None) -> None:
        self.search, self.limits = search, limits or Limits()
        names = [source.rstrip("/").split("/")[-1] for source in search.header.sources]
        self.title = f"{len(search)} clips of {', '.join(names)}, model {search.header.model}"
        self._model = threading.Lock()
        self._previews = Previews()
        self._pictures = functools.lru_cache(maxsize=1024)(self._picture)
        self._bytes = functools.lru_cache(maxsize=4096)(self._playable)
        self._version = secrets.token_hex(4)  # browsers keep media: not those of another index

    def warm_up(self) -> None:
        """Load the model and start what reads uploads, so that no visitor waits for it.

        Raises:
            UserError: the model is not there, not the index's, or has no space for both.
        """
        for by in self._directions():
            encoder = self.search.encoder(by)
            self.search.query(np.ones(encoder.width), to=OTHER[by], top=1)
        with tempfile.TemporaryDirectory(prefix="avssl-upload-") as folder:
            silence = Path(folder) / "silence.wav"
            soundfile.write(silence, np.zeros(16000), 16000)
            read_upload(silence, encoder.data, longest=self.limits.seconds)

    def about(self) -> dict[str, Any]:
        """The index in a line, limits, and clips to try."""
        limits = {
            "bytes": self.limits.upload,
            "seconds": self.limits.seconds,
            "recording": self.limits.recording,
        }
        return {
            "title": self.title,
            "limits": limits,
            "directions": self._directions(),
            "examples": self._examples(),
        }

    def search_clip(self, number: int, *, by: str) -> dict[str, Any]:
        """Search with the sound or the picture of an indexed clip; see `search_upload`.

        Raises:
            Refusal: there is no such clip, or it has no vector to search with.
        """
        begin = time.perf_counter()
        stretch, name = self._stretch(number)
        if by not in self.search.modalities:
            raise Refusal(
                422, f"The index holds no {_WORDS[by]} of its clips to search with: give a file."
            )
        try:
            sound = stretch.spectrogram() if stretch.clip.has_audio else b""
            strip = stretch.strip(STRIP) if stretch.clip.has_video else []
        except MediaError as error:
            raise Refusal(422, f"{name} cannot be shown: {error}.") from None
        query = _query(name, stretch.seconds, sound, strip) | {
            "url": self._url("media", number),
            "media_start": self._media_start(number),
        }
        vector = self.search.vector(number, by)  # [D]
        return self._found(vector, query, by=by, begin=begin, clip=number)

    def search_upload(self, path: Path, *, name: str, by: str) -> dict[str, Any]:
        """Search with a file's sound (by="audio") or picture (by="video") for the other.

        Returns:
            query (name, spectrogram, strip, ...), matches, and the spread of all similarities.

        Raises:
            Refusal: the file cannot be used.
        """
        begin = time.perf_counter()
        encoder = self.search.encoder(by)
        try:
            upload = read_upload(path, encoder.data, longest=self.limits.seconds)
        except MediaError as error:
            raise Refusal(
                422, f"'{name}' cannot be used: {error}. Give a video or a sound file."
            ) from None
        if not upload.inputs:
            raise Refusal(
                422,
                f"'{name}' has no {_WORDS[by]} to search with{upload.reason}: switch the direction "
                f"to {_WORDS[OTHER[by]]} → {_WORDS[by]}, or give a clip that has one.",
            )
        with self._model, torch.no_grad():  # one at a time: each takes all cores
            batch = stack_inputs([upload.inputs], encoder.inputs)
            batch = finish_inputs(batch, encoder.inputs, encoder.device)
            vector = encoder.encode(batch)[0].float().cpu().numpy()  # [D]
        query = _query(name, upload.seconds, upload.spectrogram, upload.strip)
        return self._found(vector, query, by=by, begin=begin, clip=None)

    def media(self, number: int) -> Path:
        """A file of the clip that browsers play: the clip's own, or a copy.

        Raises:
            Refusal: there is no such clip, or it cannot be read.
        """
        stretch, name = self._stretch(number)
        try:
            return stretch.file if self._bytes(number) else self._previews.get(number, stretch)
        except MediaError as error:
            raise Refusal(422, f"{name} cannot be played: {error}.") from None

    def picture(self, kind: str, number: int) -> bytes:
        """The "spectrogram" (PNG) or "poster" (JPEG) of a clip of the index.

        Raises:
            Refusal: there is no such clip, or it has nothing of the kind.
        """
        return self._pictures(kind, number)

    def _picture(self, kind: str, number: int) -> bytes:
        stretch, name = self._stretch(number)
        try:
            return stretch.spectrogram() if kind == "spectrogram" else stretch.strip(1)[0]
        except MediaError as error:
            raise Refusal(422, f"{name} cannot be shown: {error}.") from None

    def _stretch(self, number: int) -> tuple[Stretch, str]:
        """Where a clip of the index lies, and its name: the only files that are ever served."""
        try:
            clip, root = self.search.clip(number), self.search.root(number)
        except UserError:
            raise Refusal(404, "The index has no such clip.") from None
        files = Manifest(root, [clip])
        start, seconds = extent(clip, video=bool(clip.has_video))
        # found by its middle window: of a long clip, the minute around that is shown
        start, seconds = start + max(0.0, seconds - _SHOWN) / 2, min(seconds, _SHOWN)
        stretch = Stretch(files.file(clip), files.sound_file(clip), clip, start, start + seconds)
        return stretch, clip.path

    def _playable(self, number: int) -> int:
        """Bytes of the clip's file if browsers play it as it is, else 0."""
        stretch = self._stretch(number)[0]
        try:
            return stretch.file.stat().st_size if plays(stretch) else 0
        except (MediaError, OSError):
            return 0

    def _media_start(self, number: int) -> float:
        """Where the clip begins in what `media` gives."""
        return self._stretch(number)[0].start if self._bytes(number) else 0.0

    def _url(self, kind: str, number: int) -> str:
        return f"api/{kind}/{number}?{self._version}"

    def _found(
        self, vector: Any, query: dict[str, Any], *, by: str, begin: float, clip: int | None
    ) -> dict[str, Any]:
        to, count = OTHER[by], len(self.search)
        try:
            ranked = self.search.query(vector, to=to, top=min(count, _COMPARED))
        except UserError as error:
            raise Refusal(422, f"The search failed: {error}.") from None
        scores = np.array([match.score for match in ranked])
        lowest, highest = float(scores.min()), float(scores.max())
        spread, _ = np.histogram(scores, bins=_CELLS, range=(lowest, highest))
        return {
            "query": query,
            "to": to,
            "count": f"{len(ranked)} of {count} clips" if len(ranked) < count else f"{count} clips",
            "seconds": time.perf_counter() - begin,
            "lowest": lowest,
            "highest": highest,
            "spread": spread.tolist(),
            "matches": [self._match(match, itself=match.id == clip) for match in ranked[:_MATCHES]],
        }

    def _match(self, match: Match, *, itself: bool) -> dict[str, Any]:
        stretch, name = self._stretch(match.id)
        number = match.id
        return {
            "id": number,
            "name": name,
            "label": match.label,
            "score": match.score,
            "self": itself,
            "seconds": stretch.seconds,
            "shape": (stretch.clip.width or 4) / (stretch.clip.height or 3),
            "url": self._url("media", number),
            "bytes": self._bytes(number),  # 0: a small copy is sent
            "media_start": self._media_start(number),
            "spectrogram": self._url("spectrogram", number) if stretch.clip.has_audio else "",
            "poster": self._url("poster", number) if stretch.clip.has_video else "",
        }

    def _directions(self) -> list[str]:
        """What can be searched by: what the index can be searched for is the other one."""
        return [by for by in ("audio", "video") if OTHER[by] in self.search.modalities]

    def _examples(self) -> list[dict[str, Any]]:
        """Clips with picture and sound from all over the index, of as many labels as there are.

        None where the index has no vectors to search by.
        """
        if set(self.search.modalities) != set(OTHER):
            return []
        count = len(self.search)
        found: dict[str, list[dict[str, Any]]] = {}
        # drawn by a fixed seed: the order of a corpus often follows its labels
        for number in random.Random(0).sample(range(count), min(count, 200)):
            clip = self.search.clip(number)
            if clip.has_video and clip.has_audio:
                entry = {"id": number, "name": clip.path, "label": clip.label}
                entry["poster"] = self._url("poster", number)
                found.setdefault(clip.label, []).append(entry)
        rounds = itertools.zip_longest(*(found[label] for label in sorted(found)))
        mixed = (entry for turn in rounds for entry in turn if entry is not None)
        return list(itertools.islice(mixed, _EXAMPLES))


def _query(name: str, seconds: float, spectrogram: bytes, strip: Sequence[bytes]) -> dict[str, Any]:
    """What is shown of the query."""
    return {
        "name": name,
        "seconds": seconds,
        "spectrogram": _data_url(spectrogram, "image/png") if spectrogram else "",
        "strip": [_data_url(picture, "image/jpeg") for picture in strip],
        "media_start": 0.0,
    }


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
