"""What the lip-reading page's requests are answered with.

Nothing is kept of a request: switching what is read sends the clip again.
"""

import base64
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avssl.data.container import MediaError
from avssl.errors import UserError
from avssl.page.helper import without_folder
from avssl.page.refusal import Refusal
from avssl.page.site import Answer
from avssl.speech.page.upload import COLUMNS, Talk, read_talk
from avssl.speech.readers import KINDS, Readers, described
from avssl.speech.transcribe import transcribe

_READS = {"video": "lips", "audio": "sound", "both": "lips and sound"}


@dataclass(frozen=True)
class Limits:
    """What the page takes."""

    upload: int = 50_000_000  # bytes
    seconds: float = 60.0  # of an uploaded clip
    recording: float = 10.0  # s after which the camera is switched off


class LipPage:
    """Answers with the models of `readers`; its methods may be called from several threads.

    Attributes:
        folder: of the page's files. title: one line on the models, shown on top of the page.
    """

    folder = Path(__file__).parent

    def __init__(self, readers: Readers, *, limits: Limits | None = None) -> None:
        self.readers, self.limits = readers, limits or Limits()
        models = {readers.folder(kind): readers.reader(kind) for kind in readers.kinds}
        self.title = "; ".join(
            f"{folder.name} reads {_READS[reader.kind]} ({described(reader.settings)})"
            for folder, reader in models.items()
        )
        self._model = threading.Lock()

    @property
    def longest_upload(self) -> int:
        """Bytes."""
        return self.limits.upload

    def get(self, path: str, query: dict[str, str]) -> Answer:
        """What the page asks for when it opens."""
        if path != "/api/about":
            raise Refusal(404, "There is no such page.")
        limits = {
            "bytes": self.limits.upload,
            "seconds": self.limits.seconds,
            "recording": self.limits.recording,
        }
        return {"title": self.title, "kinds": self.readers.kinds, "limits": limits}

    def receiver(self, path: str, query: dict[str, str]) -> Callable[[Path, str], Answer]:
        """Uploads are read."""
        kind = query.get("kind", "video")
        if path != "/api/read":
            raise Refusal(404, "There is no such page.")
        if kind not in KINDS:
            raise Refusal(400, "Clips are read by video, by audio or by both.")
        if kind not in self.readers.kinds:
            raise Refusal(422, f"No model here reads {_READS[kind]}.")
        return lambda file, name: self.read(file, name=name, kind=kind)

    def read(self, path: Path, *, name: str, kind: str) -> dict[str, Any]:
        """Words of a file, with its mouth crops and its spectrogram.

        Raises:
            Refusal: the file cannot be read.
        """
        try:
            talk = read_talk(path, self.readers.data(kind), longest=self.limits.seconds)
        except MediaError as error:
            raise Refusal(422, _named(without_folder(error, path.parent), path, name)) from None
        reader = self.readers.reader(kind)
        begin = time.perf_counter()
        with self._model:  # one at a time: each takes all cores
            try:
                found = transcribe(reader, talk.clip)
            except UserError as error:
                raise Refusal(422, str(error)) from None
        return found.as_json() | {
            "name": name,
            "kind": kind,
            "search": described(reader.settings),
            "took": time.perf_counter() - begin,
            "mouths": _mouths(talk),
            "spectrogram": _data_url(talk.spectrogram, "image/png") if talk.spectrogram else "",
            "preview": base64.b64encode(talk.preview).decode(),
        }


def _named(reason: str, path: Path, name: str) -> str:
    """A sentence about a file, by the name that its sender gave it."""
    if path.name in reason:
        return f"{reason.replace(path.name, repr(name))}."
    return f"{name!r} cannot be read: {reason}."


def _mouths(talk: Talk) -> dict[str, Any] | None:
    """All crops in one picture, row by row."""
    if talk.clip.mouths is None:
        return None
    return {
        "url": _data_url(talk.sheet, "image/jpeg"),
        "columns": COLUMNS,
        "frames": talk.clip.frames,
        "rate": talk.clip.rate,
        "side": talk.clip.mouths.shape[1],
    }


def _data_url(data: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
