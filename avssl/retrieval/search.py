"""Search in an index folder: the clips whose sound or picture is nearest to a vector or a file.

search = Search.open("index")
matches = search.query(search.embed("dog.wav", "audio"), to="video")

Letters: N clips, D width, K matches.
"""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from avssl.data.manifest import Clip, safe_path
from avssl.data.shards import stored_in
from avssl.errors import UserError
from avssl.retrieval.memory import MEMORY, allow, allowed_memory
from avssl.retrieval.nearest import LOW_RECALL, Nearest, search_memory
from avssl.retrieval.store import Rows, check_files, open_vectors, read_header
from avssl.retrieval.towers import OTHER, tower_of, towers_of

if TYPE_CHECKING:
    from avssl.encoders.encoder import Encoder
    from avssl.encoders.load import Encoders


@dataclass(frozen=True)
class Match:
    """A clip that was found. start, end: seconds, None where the whole file is the clip."""

    id: int  # the clip's number in the index, for good
    path: str  # as in the manifest, relative to its folder or corpus
    start: float | None
    end: float | None
    label: str
    score: float  # cosine


class Search:
    """An open index. All methods may be called from several threads at once.

    Attributes:
        folder: of the index. header: what index.json says: `model`, `number`, `modalities`, ...
    """

    def __init__(
        self, folder: Path, *, run: str | os.PathLike[str] | None, memory: int | None
    ) -> None:
        self.folder, self.header = folder, read_header(folder)
        if not self.header.number:
            raise UserError(
                f"{folder} holds no clip yet: indexing was interrupted, give the same command again"
            )
        if memory is not None:
            needed = sum(
                search_memory(self.header.number, m.width) for m in self.header.modalities.values()
            )
            advice = "raise --memory, or build the index of fewer clips or one modality"
            allow(needed, memory, what=f"searching {folder}", advice=advice)
        check_files(folder, self.header)
        self._rows = Rows(folder / self.header.name("clips.jsonl"), self.header.number)
        self._nearest = {
            name: Nearest(
                open_vectors(folder, self.header, name),
                modality.nearest,
                folder / self.header.name(f"{name}.faiss"),
            )
            for name, modality in self.header.modalities.items()
        }
        self._run = Path(run) if run is not None else (folder.resolve() / self.header.run).resolve()
        self._encoders: Encoders | None = None
        self._compared = False  # the encoders with what the vectors were made by
        self._lock = threading.Lock()  # of the encoders while they are loaded
        self._roots: dict[str, Path] = {}

    @classmethod
    def open(
        cls,
        folder: str | os.PathLike[str],
        *,
        memory: str | int | None = MEMORY,
        run: str | os.PathLike[str] | None = None,
    ) -> Search:
        """Open an index folder.

        Args:
            folder: what `tools/retrieve.py index` wrote.
            memory: bytes, or text such as "4GB", that searching may take; None: any amount.
            run: where the model is now; by default where it was when the index was built.

        Raises:
            UserError: no index, a damaged one, or one that needs more memory.
        """
        allowed = allowed_memory(memory)
        before = read_header(Path(folder)).generation
        try:
            return cls(Path(folder), run=run, memory=allowed)
        except UserError:
            if read_header(Path(folder)).generation == before:
                raise
        return cls(Path(folder), run=run, memory=allowed)  # clips were added while it was opened

    @property
    def modalities(self) -> list[str]:
        """What clips can be found by: "audio", "video" or both."""
        return list(self.header.modalities)

    def __len__(self) -> int:
        return self.header.number

    def query(self, vector: Any, *, to: str = "video", top: int = 10) -> list[Match]:
        """The `top` clips whose vectors of the modality `to` have the largest cosine with `vector`.

        Args:
            vector: [D], of any length above 0: array, tensor or list.
            top: at most so many. Where all vectors are compared, any number; an index with codes
                ranks at most 5,000, for each is read from the disk four times over.

        Returns:
            Best first; equal cosines in the order of ids.

        Raises:
            UserError: no such modality in the index, or a vector of another width or not finite.
        """
        query = self._direction(vector, to)
        if top < 1:
            raise UserError(f"top={top}: ask for at least one match")
        rows, scores = self._nearest[to].search(query, top=top)  # [K] each
        return [self._match(row, score) for row, score in zip(rows, scores, strict=True)]

    def sample(self, vector: Any, *, to: str = "video", count: int) -> list[Match]:
        """How near clips from all over the index are: drawn once for all, in the order of ids.

        Args:
            vector: as of `query`. count: at most so many clips; the same ones for every vector.

        Raises:
            UserError: as `query`.
        """
        query, number = self._direction(vector, to), len(self)
        if count < 1:
            raise UserError(f"count={count}: ask for at least one clip")
        rows = np.random.default_rng(0).choice(number, min(count, number), replace=False)
        rows.sort()
        scores = self._nearest[to].scores(query, rows)  # [K]
        return [self._match(row, score) for row, score in zip(rows, scores, strict=True)]

    def warning(self, to: str) -> str:
        """A sentence if queries miss too many of the nearest vectors of a modality, else ""."""
        self._modality(to)
        share = self._nearest[to].recall
        if share >= LOW_RECALL:
            return ""
        return (
            f"{self.folder} finds {share:.1%} of the 10 nearest {to} vectors, as measured when it "
            "was built: near matches may be missing"
        )

    def _direction(self, vector: Any, to: str) -> np.ndarray:
        """A query as unit vector, float64 [D]."""
        modality = self._modality(to)
        query = np.asarray(vector, dtype=np.float64)  # [D]
        if query.shape != (modality.width,):
            raise UserError(
                f"the query has the shape {list(query.shape)}, the {to} vectors of {self.folder} "
                f"the width {modality.width}: a query must come from a model with one space for "
                "both, as after contrast between sound and picture"
            )
        length = np.linalg.norm(query)
        if not np.isfinite(length) or length == 0:
            raise UserError("the query is zero or not finite: it has no direction to search in")
        return np.asarray(query / length)

    def embed(self, path: str | os.PathLike[str], modality: str) -> np.ndarray:
        """The vector [D] of a file's sound ("audio") or picture ("video"), of its middle window.

        Raises:
            UserError: the file cannot be read or lacks the stream, or the model is not the one the
                index was built by.
        """
        import torch

        encoder = self.encoder(modality)
        with torch.no_grad():
            found: np.ndarray = encoder(path, span="middle")[0].float().cpu().numpy()
        if not np.isfinite(found).all():
            raise UserError(f"{path}: its {modality} features are not finite")
        return found  # [D]

    def clip(self, id: int) -> Clip:
        """The manifest row of a clip, with what is needed to read it (`avssl.data.media`)."""
        row = self._row(id)
        return Clip(**{name: value for name, value in row.items() if name != "source"})

    def vector(self, id: int, modality: str) -> np.ndarray:
        """The vector [D] of a clip that is in the index."""
        self._modality(modality)
        self._row(id)
        return np.asarray(self._nearest[modality].vectors[id], dtype=np.float32)

    def root(self, id: int) -> Path:
        """The folder that the clip's path is relative to."""
        number = self._row(id)["source"]
        if not 0 <= number < len(self.header.sources):
            raise UserError(f"{self.folder} is damaged: clip {id} is of no source it knows")
        source = self.header.sources[number]
        if source not in self._roots:
            self._roots[source] = source_root(self.folder, source)
        return self._roots[source]

    def file(self, id: int) -> Path:
        """The clip's file; of a member of a tar, the path of the tar, a slash, and its name."""
        return self.root(id) / safe_path(self._row(id)["path"], f"index {self.folder}")

    def stored(self, id: int) -> Path:
        """The file on disk that holds the clip: its own, or the tar."""
        return stored_in(self.file(id), self.clip(id))

    def sound_file(self, id: int) -> Path:
        """The file that holds the clip's sound: the wav beside it, or the clip's own."""
        return self.root(id) / safe_path(self.clip(id).sound_path, f"index {self.folder}")

    def _modality(self, name: str) -> Any:
        if name not in self.header.modalities:
            raise UserError(
                f"{self.folder} has no vectors of {name!r}: it has {', '.join(self.modalities)}"
            )
        return self.header.modalities[name]

    def encoder(self, modality: str) -> Encoder:
        """The model's encoder of "audio" or "video", once it is known to be the index's.

        Raises:
            UserError: the model is not there, or not the one the index was built by.
        """
        with self._lock:
            encoders = self._loaded()
            encoder = encoders[tower_of(encoders, modality)]
            if not self._compared:
                self._compare(encoders)
                self._compared = True
        return encoder

    @property
    def askable(self) -> list[str]:
        """What the model can search by: "audio", "video" or both.

        Raises:
            UserError: the model is not there.
        """
        with self._lock:
            return list(towers_of(self._loaded()))

    def way(self, path: str | os.PathLike[str], to: str) -> str:
        """What of a file to search with: what the clips are not found by, where the file and the
        model have that, and otherwise the same, such as a picture for pictures.

        Raises:
            UserError: the file or the model is not there.
        """
        from avssl.encoders.windows import scan_file

        clip, other = scan_file(Path(path)), OTHER[to]
        has = {"audio": clip.has_audio, "video": clip.has_video}
        return to if has[to] and not (has[other] and other in self.askable) else other

    def _loaded(self) -> Encoders:
        """The model's encoders; the lock is held."""
        if self._encoders is None:
            import avssl

            if not self._run.exists():
                raise UserError(
                    f"the model that {self.folder} was built by is not at {self._run} any "
                    "more: say where with --run"
                )
            self._encoders = avssl.load(self._run)
        return self._encoders

    def _compare(self, encoders: Encoders) -> None:
        """Raises UserError unless the vectors of every modality were made by these encoders."""
        towers = towers_of(encoders)
        known = {name: m for name, m in self.header.modalities.items() if name in towers}
        for name, modality in (known or self.header.modalities).items():
            same_model(
                encoders[tower_of(encoders, name)].fingerprint,
                modality.fingerprint,
                folder=self.folder,
                model=self.header.model,
                run=self._run,
            )

    def _row(self, id: int) -> dict[str, Any]:
        if not 0 <= id < self.header.number:
            raise UserError(
                f"{self.folder} has no clip {id}: ids are 0 to {self.header.number - 1}"
            )
        return self._rows[id]

    def _match(self, row: int, score: float) -> Match:
        clip = self.clip(int(row))
        return Match(int(row), clip.path, clip.start, clip.end, clip.label, float(score))


def same_model(found: str, wanted: str, *, folder: Path, model: str, run: Path) -> None:
    """Raises UserError when an encoder is not the one that an index was built by."""
    if found != wanted:
        raise UserError(
            f"{folder} was built by another model ({model}, encoder {wanted}) than {run} "
            f"(encoder {found}): give that model with --run, or build another index with --out"
        )


def source_root(folder: Path, source: str) -> Path:
    """Where a source of an index lies: a corpus in the cache, or a folder relative to the index."""
    if source.startswith("corpus:"):
        from avssl.data.corpora import ensure_corpus

        return ensure_corpus(source.removeprefix("corpus:")).parent
    return (folder.resolve() / source).resolve()
