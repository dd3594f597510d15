"""What the page's requests are answered with: searches, and clips to try.

Nothing is kept of a request: each brings its query along, so that users cannot meet in anything.
"""

import base64
import functools
import itertools
import random
import re
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch

from avssl.data.batches import finish_inputs, stack_inputs
from avssl.data.container import MediaError
from avssl.errors import UserError
from avssl.page.helper import without_folder
from avssl.page.refusal import Refusal
from avssl.page.site import Answer, Body
from avssl.retrieval.page.clips import Clips
from avssl.retrieval.page.upload import read_upload
from avssl.retrieval.search import Match, Search
from avssl.retrieval.towers import OTHER, WORDS

_MATCHES = 12
_EXAMPLES = 12
_COMPARED = 4096  # similarities behind the heat map
_CELLS = 48  # of the heat map


@dataclass(frozen=True)
class Limits:
    """What the page takes."""

    upload: int = 50_000_000  # bytes
    seconds: float = 600.0  # of an uploaded clip
    recording: float = 10.0  # s after which the microphone is switched off


class Page:
    """Answers for one index; its methods may be called from several threads.

    Attributes:
        search: the opened index. clips: its clips to see and hear. title: one line on it, shown on
            top of the page.
    """

    def __init__(self, search: Search, *, limits: Limits | None = None) -> None:
        self.search, self.limits = search, limits or Limits()
        names = [source.rstrip("/").split("/")[-1] for source in search.header.sources]
        self.title = f"{len(search)} clips of {', '.join(names)}, model {search.header.model}"
        self._model = threading.Lock()
        self.clips = Clips(search)

    folder = Path(__file__).parent  # of the page's files

    @property
    def longest_upload(self) -> int:
        """Bytes."""
        return self.limits.upload

    def get(self, path: str, query: dict[str, str]) -> Answer:
        """What the page asks for: about, a search by a clip, or something of a clip."""
        kind, _, number = path.removeprefix("/api/").partition("/")
        if path == "/api/about":
            return self.about()
        if path == "/api/search":
            return self.search_clip(_number(query.get("clip", "")), by=_by(query))
        if path.startswith("/api/") and kind == "media":
            return self.clips.media(_number(number))
        if path.startswith("/api/") and kind in ("spectrogram", "poster"):
            (picture,) = self.clips.pictures(kind, _number(number))
            return Body(picture, "image/png" if kind == "spectrogram" else "image/jpeg")
        raise Refusal(404, "There is no such page.")

    def receiver(self, path: str, query: dict[str, str]) -> Callable[[Path, str], Answer]:
        """Uploads are searched with."""
        if path != "/api/search":
            raise Refusal(404, "There is no such page.")
        by = _by(query)
        return lambda file, name: self.search_upload(file, name=name, by=by)

    def warm_up(self) -> None:
        """Load the model and start what reads uploads, so that no visitor waits for it.

        Raises:
            UserError: the model is not there, not the index's, or has no space for both.
        """
        for by, to in self.directions.items():
            encoder = self.search.encoder(by)
            self.search.query(np.ones(encoder.width), to=to, top=1)
        with tempfile.TemporaryDirectory(prefix="avssl-upload-") as folder:
            silence = Path(folder) / "silence.wav"
            soundfile.write(silence, np.zeros(16000), 16000)
            try:
                read_upload(silence, encoder.data, longest=self.limits.seconds)
            except MediaError as error:
                print(f"warning: uploads cannot be read: {error}", file=sys.stderr, flush=True)

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
            "directions": self.directions,
            "examples": self._examples(),
        }

    def search_clip(self, number: int, *, by: str) -> dict[str, Any]:
        """Search with the sound or the picture of an indexed clip; see `search_upload`.

        Raises:
            Refusal: there is no such clip, or it has no vector to search with.
        """
        begin = time.perf_counter()
        stretch = self.clips.stretch(number)
        if by not in self.search.modalities:
            raise Refusal(
                422, f"The index holds no {WORDS[by]} of its clips to search with: give a file."
            )
        sound = self._shown("spectrogram", number) if stretch.clip.has_audio else []
        strip = self._shown("strip", number) if stretch.clip.has_video else []
        seconds = 0.0 if stretch.still else stretch.seconds
        query = _query(stretch.clip.path, seconds, b"".join(sound), strip) | {
            "url": self.clips.url("media", number),
            "media_start": self.clips.start(number),
        }
        vector = self.search.vector(number, by)  # [D]
        return self._found(vector, query, by=by, begin=begin, clip=number)

    def search_upload(self, path: Path, *, name: str, by: str) -> dict[str, Any]:
        """Search with a file's sound (by="audio") or picture (by="video"), see `directions`.

        Returns:
            query (name, spectrogram, strip, ...), matches, and the spread of all similarities.

        Raises:
            Refusal: the file cannot be used.
        """
        begin = time.perf_counter()
        if by not in self.directions:
            raise Refusal(422, f"This index is not searched by {WORDS[by]}: give another file.")
        encoder = self.search.encoder(by)
        try:
            upload = read_upload(path, encoder.data, longest=self.limits.seconds)
        except MediaError as error:
            raise Refusal(
                422,
                f"'{name}' cannot be used: {without_folder(error, path.parent)}. Give a video, a "
                "sound or a picture.",
            ) from None
        if not upload.inputs:
            other, switch = OTHER[by], ""
            if other in self.directions:
                way = f"{WORDS[other]} → {WORDS[self.directions[other]]}"
                switch = f"switch the direction to {way}, or "
            raise Refusal(
                422,
                f"'{name}' has no {WORDS[by]} to search with{upload.reason}: {switch}give a clip "
                "that has one.",
            )
        with self._model, torch.no_grad():  # one at a time: each takes all cores
            batch = stack_inputs([upload.inputs], encoder.inputs)
            batch = finish_inputs(batch, encoder.inputs, encoder.device)
            vector = encoder.encode(batch)[0].float().cpu().numpy()  # [D]
        query = _query(name, upload.seconds, upload.spectrogram, upload.strip)
        return self._found(vector, query, by=by, begin=begin, clip=None)

    def _found(
        self, vector: Any, query: dict[str, Any], *, by: str, begin: float, clip: int | None
    ) -> dict[str, Any]:
        to, count = self.directions[by], len(self.search)
        try:
            matches = self.search.query(vector, to=to, top=min(count, _MATCHES))
            sample = self.search.sample(vector, to=to, count=_COMPARED)
        except UserError as error:  # it may name folders
            print(f"a search failed: {error}", file=sys.stderr, flush=True)
            raise Refusal(422, "The search failed; the server's window says why.") from None
        scores = np.array([match.score for match in sample])
        lowest, highest = scores.min(), max(match.score for match in (*matches, *sample))
        spread, _ = np.histogram(scores, bins=_CELLS, range=(lowest, highest))
        some = f"{len(sample)} of {count} clips, drawn at random"
        return {
            "query": query,
            "by": by,
            "to": to,
            "count": f"{count} clips",
            "compared": some if len(sample) < count else f"all {count} clips",
            "seconds": time.perf_counter() - begin,
            "lowest": float(lowest),
            "highest": float(highest),
            "spread": spread.tolist(),
            "matches": [self._match(match, itself=match.id == clip) for match in matches],
        }

    def _match(self, match: Match, *, itself: bool) -> dict[str, Any]:
        number, url = match.id, self.clips.url
        stretch, there = self.clips.stretch(number), self.clips.there(number)
        plays = there and not stretch.still
        return {
            "id": number,
            "name": match.path,
            "label": match.label,
            "score": match.score,
            "self": itself,
            "seconds": stretch.seconds,
            "shape": (stretch.clip.width or 4) / (stretch.clip.height or 3),
            "url": url("media", number) if plays else "",  # its file may have gone since
            "bytes": self.clips.size(number),  # 0: a small copy is sent
            "media_start": self.clips.start(number),
            "spectrogram": url("spectrogram", number) if there and stretch.clip.has_audio else "",
            "poster": url("poster", number) if there and stretch.clip.has_video else "",
        }

    def _shown(self, kind: str, number: int) -> list[bytes]:
        """Pictures of the clip searched with; its vector serves without them."""
        try:
            return self.clips.pictures(kind, number)
        except Refusal:
            return []

    @functools.cached_property
    def directions(self) -> dict[str, str]:
        """What can be searched by -> what for. Each for the other, where the index has both; where
        it has one, that for itself, and the other for it if the model has a space for both.

        Raises:
            UserError: the model is not there, or not the index's.
        """
        if set(self.search.modalities) == set(OTHER):
            return dict(OTHER)
        (to,) = self.search.modalities
        other, found = OTHER[to], {to: to}
        if other in self.search.askable:
            width = self.search.header.modalities[to].width
            found |= {other: to} if self.search.encoder(other).width == width else {}
        return found

    def _examples(self) -> list[dict[str, Any]]:
        """Clips from all over the index that can be searched with in each way that it can, of as
        many labels as there are."""
        count = len(self.search)
        found: dict[str, list[dict[str, Any]]] = {}
        # drawn by a fixed seed: the order of a corpus often follows its labels
        for number in random.Random(0).sample(range(count), min(count, 200)):
            clip = self.search.clip(number)
            has = {"audio": clip.has_audio, "video": clip.has_video}
            if all(has[m] for m in self.search.modalities) and self.clips.there(number):
                entry = {"id": number, "name": clip.path, "label": clip.label}
                entry["poster"] = self.clips.url("poster", number) if clip.has_video else ""
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


def _number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,9}", text):
        raise Refusal(404, "The index has no such clip.")
    return int(text)


def _by(query: dict[str, str]) -> str:
    by = query.get("by", "audio")
    if by not in ("audio", "video"):
        raise Refusal(400, "Searching is by audio or by video.")
    return by
