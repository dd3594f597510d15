"""Building an index with codes: fitted to a sample, and measured with queries whose neighbours are
known, so that as few lists and candidates are read as find them.

Letters: N vectors, D width, Q queries, K results.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from avssl.files import half_written
from avssl.retrieval.exact import chunks, exact_rows, recall
from avssl.retrieval.nearest import (
    TRAIN,
    Nearest,
    codes_for,
    faiss_module,
    lists_for,
    recipe_for,
)  # fmt: skip

_PROBE_QUERIES = 100
_TOP = 10  # recall is measured among so many
_RECALL = 0.98  # wanted of these queries
_APART = 16  # measured

Progress = Callable[[str], None]


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
    faiss = faiss_module()
    usable = before is not None and before.recipe["type"] == "ivf_pq"
    if before is not None and usable and number <= 2 * before.recipe["fitted"]:
        index, fitted = before._index, before.recipe["fitted"]
    else:
        index, fitted = _fitted(vectors, say), number
    say(f"{file.name}: encoding {number - index.ntotal} vectors")
    for _, chunk in chunks(vectors, first=index.ntotal):
        index.add(np.ascontiguousarray(chunk))
    faiss.write_index(index, os.fspath(half_written(file)))
    with open(half_written(file), "rb") as written:
        os.fsync(written.fileno())
    os.replace(half_written(file), file)
    say(f"{file.name}: measuring how many lists and candidates are needed")
    recipe = {"type": "ivf_pq", "lists": index.nlist, "fitted": fitted}
    unmeasured = Nearest(vectors, recipe | {"probes": 1, "candidates": 1, "recall": 0.0}, file)
    recipe |= _measured(unmeasured, foreign)
    if recipe["recall"] < _RECALL:
        say(
            f"{file.name}: warning: no choice of lists and candidates finds {_RECALL:.0%} of the "
            f"{_TOP} nearest; the best finds {recipe['recall']:.1%}"
        )
    return recipe


def _fitted(vectors: np.ndarray, say: Progress) -> Any:
    """An empty index whose centroids and codes are fitted to a sample of the vectors."""
    faiss = faiss_module()
    number, width = vectors.shape
    lists, codes = lists_for(number), codes_for(width)
    say(f"fitting {lists} lists and {codes} codes to a sample of {number} vectors")
    sample = np.random.default_rng(0).choice(number, min(number, TRAIN), replace=False)
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
    own = np.sort(draw.choice(number, min(number, _PROBE_QUERIES), replace=False))  # [Q]
    queries = np.asarray(nearest.vectors[own], dtype=np.float64)  # [Q, D]
    if foreign is not None:
        others = draw.choice(len(foreign), len(queries[::2]), replace=False)
        queries[::2] = foreign[np.sort(others)]
        own[::2] = -1
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    wanted = exact_rows(nearest.vectors, queries, top=_TOP, without=own)  # [Q, K]
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
        codes = probes / lists * number * codes_for(width) / 2
        return codes + _APART * candidates * width * nearest.vectors.itemsize

    probes = sorted({min(2**k, lists) for k in range(4, 31)})
    return sorted(itertools.product(probes, (200, 400, 800, 1600, 3200)), key=cost)
