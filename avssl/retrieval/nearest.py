"""Nearest unit vectors: by comparing all, or through a faiss index whose candidates are re-ranked.

Up to `COMPARE_ALL` numbers every vector is compared, which takes no index at all. Above, codes of
4 bits for every 4 dimensions (product quantisation, in lists around centroids) choose candidates,
and the vectors themselves, read through the memory map, put them in order: scores are cosines
in either case. How many lists and candidates that takes is measured when the index is built, with
queries whose neighbours are known.

Letters: N vectors, D width, Q queries, K results.
"""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from avssl.errors import UserError
from avssl.files import half_written
from avssl.optional import need

COMPARE_ALL = 16_000_000  # numbers: 20 ms on two busy cores; 20,833 vectors of width 768
_CHUNK = 1 << 22  # numbers brought to fp32 at a time
_TRAIN = 65_536  # vectors that centroids and codes are fitted to
_PROBE_QUERIES = 100
_TOP = 10  # recall is measured among so many
_RECALL = 0.98  # wanted of these queries
_APART = 16  # measured
_LENGTH = 0.01  # vectors are of unit length up to this

_NUMBERS = ("lists", "fitted", "probes", "candidates")  # of an approximate index

Progress = Callable[[str], None]


def recipe_for(number: int, width: int) -> str:
    """Which type of index serves so many vectors: "exact" or "ivf_pq"."""
    return "exact" if number * width <= COMPARE_ALL else "ivf_pq"


def search_memory(number: int, width: int) -> int:
    """Bytes that searching takes: of the vectors where all are compared, else of the codes."""
    ids = 8 * number
    if recipe_for(number, width) == "exact":
        return ids + number * width * 4
    return ids + number * (_codes(width) // 2 + 8) + 4 * _lists(number) * width


def build_memory(number: int, width: int) -> int:
    """Bytes that building takes: the result, what it is fitted to, and portions on the way."""
    result = search_memory(number, width)
    if recipe_for(number, width) == "exact":
        return result
    return result + 8 * min(number, _TRAIN) * width + 8 * _CHUNK


class Nearest:
    """Search among vectors [N, D] of unit length; several threads may search at once.

    Args:
        vectors: fp32 or fp16, usually a memory map.
        recipe: type and parameters, as `build_nearest` returned them.
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
        faiss = _faiss()
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

        query: unit length, float64 [D]. top: at most so many. Equal cosines go by row.
        """
        top = min(top, len(self.vectors))
        if self._index is None:
            rows = _largest(self._all(query), top + 32)  # fp32 rounding may part equal ones
        else:
            most = max(self.recipe["candidates"], 4 * top)
            rows = self.candidates(query[None], most, probes=self.recipe["probes"])[0]
            rows = np.sort(rows[rows >= 0])  # sorted: the memory map is read in order
        found = np.asarray(self.vectors[rows], dtype=np.float64)  # [C, D]
        if not (np.abs(np.linalg.norm(found, axis=1) - 1) < _LENGTH).all():
            raise UserError(
                f"{self.file.parent} holds vectors that are not of unit length: the index is "
                "damaged, build it anew"
            )
        # no BLAS: its threads and those of faiss would wait for each other
        scores = np.einsum("cd,d->c", found, query)  # [C]
        best = np.lexsort((rows, -scores))[:top]
        return rows[best], scores[best]

    def _all(self, query: np.ndarray) -> np.ndarray:
        """Approximate cosines with all vectors, fp32 [N]."""
        return np.asarray(self._short @ query.astype(np.float32))

    def candidates(self, queries: np.ndarray, count: int, *, probes: int) -> np.ndarray:
        """Rows [Q, count] that the codes of `probes` lists put first, -1 at the end."""
        parameters = _faiss().SearchParametersIVF(nprobe=probes)
        count = min(count, len(self.vectors))
        _, rows = self._index.search(queries.astype(np.float32), count, params=parameters)
        return np.asarray(rows)


def build_nearest(
    vectors: np.ndarray,
    file: Path,
    *,
    before: Nearest | None = None,
    foreign: np.ndarray | None = None,
    say: Progress = lambda line: None,
) -> dict[str, Any]:
    """Make what `Nearest` needs beside the vectors; returns the recipe.

    Args:
        vectors: [N, D], unit length.
        file: where the faiss index goes, if the type has one; whole or not at all.
        before: an index of the first of these vectors. It is added to, unless the vectors have more
            than doubled since it was fitted.
        foreign: vectors [M, D] of another modality, which queries will come from as well.
        say: called with a line on what is going on.
    """
    number, width = vectors.shape
    if recipe_for(number, width) == "exact":
        return {"type": "exact"}
    faiss = _faiss()
    usable = before is not None and before.recipe["type"] == "ivf_pq"
    if before is not None and usable and number <= 2 * before.recipe["fitted"]:
        index, fitted = before._index, before.recipe["fitted"]
    else:
        index, fitted = _fitted(vectors, say), number
    say(f"{file.name}: encoding {number - index.ntotal} vectors")
    for _, chunk in _chunks(vectors, first=index.ntotal):
        index.add(np.ascontiguousarray(chunk))
    faiss.write_index(index, os.fspath(half_written(file)))
    with open(half_written(file), "rb") as written:
        os.fsync(written.fileno())
    os.replace(half_written(file), file)
    say(f"{file.name}: measuring how many lists and candidates are needed")
    recipe = {"type": "ivf_pq", "lists": index.nlist, "fitted": fitted}
    unmeasured = Nearest(vectors, recipe | {"probes": 1, "candidates": 1}, file)
    return recipe | _measured(unmeasured, foreign)


def exact_rows(vectors: np.ndarray, queries: np.ndarray, *, top: int) -> np.ndarray:
    """Rows [Q, top] of the nearest of vectors [N, D] to each query [Q, D], all compared."""
    scores: np.ndarray = np.empty((len(queries), 0), np.float32)
    rows: np.ndarray = np.empty((len(queries), 0), np.int64)
    for first, chunk in _chunks(vectors):
        fresh = queries.astype(np.float32) @ chunk.T  # [Q, n]
        keep = np.argpartition(-fresh, min(top, fresh.shape[1]) - 1, axis=1)[:, :top]
        scores = np.concatenate([scores, np.take_along_axis(fresh, keep, 1)], axis=1)
        rows = np.concatenate([rows, keep + first], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :top]
        scores, rows = (np.take_along_axis(x, best, 1) for x in (scores, rows))
    return rows


def recall(found: np.ndarray, wanted: np.ndarray) -> float:
    """Share of the rows in `wanted` [Q, K] that are in `found` [Q, ...]."""
    hits = [len(set(a) & set(b)) for a, b in zip(found.tolist(), wanted.tolist(), strict=True)]
    return sum(hits) / wanted.size


def _fitted(vectors: np.ndarray, say: Progress) -> Any:
    """An empty index whose centroids and codes are fitted to a sample of the vectors."""
    faiss = _faiss()
    number, width = vectors.shape
    say(f"fitting {_lists(number)} lists and {_codes(width)} codes to a sample of {number} vectors")
    sample = np.random.default_rng(0).choice(number, min(number, _TRAIN), replace=False)
    lists, codes = _lists(number), _codes(width)
    index = faiss.IndexIVFPQFastScan(
        faiss.IndexFlatIP(width), width, lists, codes, 4, faiss.METRIC_INNER_PRODUCT
    )
    index.cp.niter, index.pq.cp.niter = 10, 10
    index.train(np.asarray(vectors[np.sort(sample)], dtype=np.float32))
    return index


def _measured(nearest: Nearest, foreign: np.ndarray | None) -> dict[str, Any]:
    """The least probes and candidates that find what comparing all finds, and the recall."""
    number = len(nearest.vectors)
    draw = np.random.default_rng(0)
    own = draw.choice(number, min(number, _PROBE_QUERIES), replace=False)
    queries = np.asarray(nearest.vectors[np.sort(own)], dtype=np.float64)  # [Q, D]
    if foreign is not None:
        others = draw.choice(len(foreign), len(queries[::2]), replace=False)
        queries[::2] = foreign[np.sort(others)]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    wanted = exact_rows(nearest.vectors, queries, top=_TOP + 1)[:, 1:]  # the first may be itself
    most = max(candidates for _, candidates in _trials(nearest))
    rows: dict[int, np.ndarray] = {}  # probes -> candidates [Q, most], likeliest first
    best: dict[str, Any] = {}
    for probes, candidates in _trials(nearest):
        if probes not in rows:
            rows[probes] = nearest.candidates(queries, most, probes=probes)
        share = recall(rows[probes][:, :candidates], wanted)  # re-ranking keeps whatever is there
        if not best or share > best["recall"]:
            best = {"probes": probes, "candidates": candidates, "recall": round(share, 4)}
        if share >= _RECALL:
            break
    return best


def _trials(nearest: Nearest) -> list[tuple[int, int]]:
    """Probes and candidates to try, those that read least first; a candidate's vector is read from
    somewhere else than the last one's, which costs `_APART` times as much as going on."""
    (number, width), lists = nearest.vectors.shape, nearest.recipe["lists"]

    def cost(trial: tuple[int, int]) -> float:
        probes, candidates = trial
        codes = probes / lists * number * _codes(width) / 2
        return codes + _APART * candidates * width * nearest.vectors.itemsize

    probes = sorted({min(2**k, lists) for k in range(4, 31)})
    return sorted(itertools.product(probes, (200, 400, 800, 1600, 3200)), key=cost)


def _chunks(vectors: np.ndarray, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, fp32 [n, D]) of small portions."""
    step = max(1, _CHUNK // vectors.shape[1])
    for row in range(first, len(vectors), step):
        yield row, np.asarray(vectors[row : row + step], dtype=np.float32)


def _largest(scores: np.ndarray, count: int) -> np.ndarray:
    """Rows of the `count` largest scores [N], in rising order."""
    count = min(count, len(scores))
    return np.sort(np.argpartition(-scores, count - 1)[:count])


def _lists(number: int) -> int:
    """Centroids: about the root of the number, a power of two."""
    return int(2 ** round(math.log2(math.sqrt(number))))


def _codes(width: int) -> int:
    """Codes of 4 bits: one for every 4 dimensions, where they go in evenly."""
    return next(n for n in range(max(1, width // 4), 0, -1) if width % n == 0)


def _faiss() -> Any:
    return need("faiss", extra="retrieval", purpose="an index of so many vectors")
