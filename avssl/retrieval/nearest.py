"""Nearest unit vectors: by comparing all, or through a faiss index whose candidates are re-ranked.

Up to `COMPARE_ALL` numbers every vector is compared, which takes no index at all. Above, codes of
4 bits for every 4 dimensions (product quantisation, in lists around centroids) choose candidates,
and the vectors themselves, read through the memory map, put them in order: scores are cosines
in either case. `avssl.retrieval.fit` builds and measures such an index.

Letters: N vectors, D width, C candidates, Q queries, K results.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avssl.errors import UserError
from avssl.optional import need
from avssl.retrieval.exact import CHUNK

COMPARE_ALL = 16_000_000  # numbers: 20 ms on two busy cores; 20,833 vectors of width 768
TRAIN = 65_536  # vectors that centroids and codes are fitted to
LOW_RECALL = 0.95  # below, whoever asks is told
_MOST = 20_000  # vectors read for one query of an index with codes
_LENGTH = 0.01  # vectors are of unit length up to this

_NUMBERS = ("lists", "fitted", "probes", "candidates")  # of an approximate index


def recipe_for(number: int, width: int) -> str:
    """Which type of index serves so many vectors: "exact" or "ivf_pq"."""
    return "exact" if number * width <= COMPARE_ALL else "ivf_pq"


def search_memory(number: int, width: int) -> int:
    """Bytes that searching takes: of the vectors where all are compared, else of the codes."""
    ids = 8 * number
    if recipe_for(number, width) == "exact":
        return ids + number * width * 4
    return ids + number * (codes_for(width) // 2 + 8) + 4 * lists_for(number) * width


def build_memory(number: int, width: int) -> int:
    """Bytes that building takes: the result, what it is fitted to, and portions on the way."""
    result = search_memory(number, width)
    if recipe_for(number, width) == "exact":
        return result
    return result + 8 * min(number, TRAIN) * width + 8 * CHUNK


class Nearest:
    """Search among vectors [N, D] of unit length; several threads may search at once.

    Args:
        vectors: fp32 or fp16, usually a memory map.
        recipe: type and parameters, as `avssl.retrieval.fit.build_nearest` returned them.
        file: the faiss index, where the type has one.

    Raises:
        UserError: the file is damaged, or made for other vectors.
    """

    def __init__(self, vectors: np.ndarray, recipe: Mapping[str, Any], file: Path) -> None:
        self.vectors, self.recipe, self.file = vectors, recipe, file
        self._index: Any = None
        if recipe.get("type") == "exact":
            # numpy takes longer to convert fp16 than to multiply, so that is done once
            self._short = np.asarray(vectors, dtype=np.float32)  # [N, D]
            return
        if recipe.get("type") != "ivf_pq":
            raise UserError(
                f"{file.parent}: index.json names an index of type {recipe.get('type')!r}, not "
                "exact or ivf_pq: build the index anew"
            )
        for name in _NUMBERS:
            if type(recipe.get(name)) is not int or recipe[name] < 1:
                raise UserError(
                    f"{file.parent}: index.json gives no number of {name} above 0 for {file.name}: "
                    "build the index anew"
                )
        share: Any = recipe.get("recall")
        if type(share) not in (int, float) or not 0 <= share <= 1:
            raise UserError(
                f"{file.parent}: index.json gives no recall from 0 to 1 for {file.name}: build the "
                "index anew"
            )
        faiss = faiss_module()
        try:
            self._index = faiss.read_index(os.fspath(file))
        except RuntimeError as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise UserError(f"{file} is damaged ({reason}): build the index anew") from None
        if (self._index.ntotal, self._index.d) != vectors.shape:
            raise UserError(
                f"{file} is of {self._index.ntotal} vectors of width {self._index.d}, the vectors "
                f"beside it are {list(vectors.shape)}: build the index anew"
            )

    def search(self, query: np.ndarray, *, top: int) -> tuple[np.ndarray, np.ndarray]:
        """Rows int64 [K] and cosines float64 [K] of the nearest vectors, best first.

        query: unit length, float64 [D]. top: at most so many, and at most `most`. Equal cosines go
        by row.
        """
        top = min(top, self.most)
        if self._index is None:
            rows = _largest(self._all(query), top + 32)  # fp32 rounding may part equal ones
        else:
            most = min(max(self.recipe["candidates"], 4 * top), _MOST)
            rows = self.candidates(query[None], most, probes=self.recipe["probes"])[0]
            rows = np.sort(rows[rows >= 0])  # sorted: the memory map is read in order
        scores = self.scores(query, rows)  # [C]
        best = np.lexsort((rows, -scores))[:top]
        return rows[best], scores[best]

    @property
    def most(self) -> int:
        """Results that a search can give: of an index with codes, a quarter of what it reads."""
        return min(len(self.vectors), len(self.vectors) if self._index is None else _MOST // 4)

    @property
    def recall(self) -> float:
        """Share of the 10 nearest that a search finds, as measured when the index was built."""
        return 1.0 if self._index is None else float(self.recipe["recall"])

    def scores(self, query: np.ndarray, rows: np.ndarray) -> np.ndarray:
        """Cosines float64 [K] of some rows [K]; they are read in portions.

        Raises UserError when a vector is not of unit length.
        """
        parts = [np.empty(0)]
        step = max(1, CHUNK // self.vectors.shape[1])
        for first in range(0, len(rows), step):
            found = np.asarray(self.vectors[rows[first : first + step]], dtype=np.float64)  # [k, D]
            if not (np.abs(np.linalg.norm(found, axis=1) - 1) < _LENGTH).all():
                raise UserError(
                    f"{self.file.parent} holds vectors that are not of unit length: the index is "
                    "damaged, build it anew"
                )
            # no BLAS: its threads and those of faiss would wait for each other
            parts.append(np.einsum("kd,d->k", found, query))
        return np.concatenate(parts)

    def candidates(self, queries: np.ndarray, count: int, *, probes: int) -> np.ndarray:
        """Rows [Q, count] that the codes of `probes` lists put first, -1 at the end."""
        parameters = faiss_module().SearchParametersIVF(nprobe=probes)
        count = min(count, len(self.vectors))
        _, rows = self._index.search(queries.astype(np.float32), count, params=parameters)
        return np.asarray(rows)

    def _all(self, query: np.ndarray) -> np.ndarray:
        """Approximate cosines with all vectors, fp32 [N]."""
        return np.asarray(self._short @ query.astype(np.float32))


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Rows of the `count` largest scores [N], in rising order."""
    count = min(count, len(scores))
    return np.sort(np.argpartition(-scores, count - 1)[:count])


def lists_for(number: int) -> int:
    """Centroids: about the root of the number, a power of two."""
    return int(2 ** round(math.log2(math.sqrt(number))))


def codes_for(width: int) -> int:
    """Codes of 4 bits: one for every 4 dimensions, where they go in evenly."""
    return next(n for n in range(max(1, width // 4), 0, -1) if width % n == 0)


def faiss_module() -> Any:
    """faiss; UserError with an install hint where it is missing."""
    return need("faiss", extra="retrieval", purpose="an index of so many vectors")
