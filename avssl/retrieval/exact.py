"""The nearest vectors by comparing all of a memory map: what an index is measured by.

Letters: N vectors, D width, Q queries, K results.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

CHUNK = 1 << 22  # numbers brought to fp32 at a time


def exact_rows(
    vectors: np.ndarray, queries: np.ndarray, *, top: int, without: np.ndarray | None = None
) -> np.ndarray:
    """Rows [Q, K] of the nearest of vectors [N, D] to each query [Q, D], all compared, best first.

    Args:
        top: K; all where there are fewer.
        without: int [Q], for each query the row that is the query itself and does not count, or
            -1. Then K is at most N - 1.
    """
    if without is not None:
        rows = exact_rows(vectors, queries, top=top + 1)
        count = min(top, len(vectors) - 1)
        return np.stack([r[r != own][:count] for r, own in zip(rows, without, strict=True)])
    scores: np.ndarray = np.empty((len(queries), 0), np.float32)
    rows = np.empty((len(queries), 0), np.int64)
    for first, chunk in chunks(vectors):
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


def chunks(vectors: np.ndarray, first: int = 0) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, fp32 [n, D]) of small portions."""
    step = max(1, CHUNK // vectors.shape[1])
    for row in range(first, len(vectors), step):
        yield row, np.asarray(vectors[row : row + step], dtype=np.float32)
