"""Search among made-up vectors: how fast, how much of what comparing all finds, how much memory.

Exit code 1 when half of the queries take longer than 20 ms, or recall@10 is below 0.95.

Letters: N vectors, D width, C clusters, Q queries.
"""

import argparse
import resource
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np

from avssl.arguments import count
from avssl.errors import UserError
from avssl.optional import need
from avssl.retrieval.exact import exact_rows, recall
from avssl.retrieval.fit import build_nearest
from avssl.retrieval.memory import allow, memory_size, spoken
from avssl.retrieval.nearest import Nearest, build_memory
from avssl.retrieval.store import PRECISIONS, write_vectors

_PORTION = 50_000  # vectors made at a time
_TOP = 10
_WARM_UP = 20  # queries that are not timed
_MILLISECONDS = 20.0  # p50 at most
_RECALL = 0.95  # at least


def main(argv: Sequence[str]) -> int:
    """Print how long building and a query take, recall@10 and memory; 1 if a target is missed."""
    parser = argparse.ArgumentParser(prog="bench.py retrieval", description=__doc__)
    parser.add_argument("--vectors", type=count, default=100_000, help="how many")
    parser.add_argument("--width", type=count, default=768, help="numbers in each")
    parser.add_argument(
        "--clusters", type=int, default=1000,
        help="gaussians that the vectors are drawn from; 0: no structure at all",
    )  # fmt: skip
    parser.add_argument("--queries", type=count, default=200, help="fresh draws, none is stored")
    parser.add_argument("--precision", choices=PRECISIONS, default="float16", help="of the file")
    parser.add_argument("--threads", type=count, default=2, help="of faiss")
    parser.add_argument("--memory", type=memory_size, default="8GB", help="allowed; default: 8GB")
    parser.add_argument("--folder", type=Path, help="for the files; default: a temporary one")
    options = parser.parse_args(argv)
    if options.clusters < 0 or options.vectors < _TOP:
        raise UserError(f"give --clusters 0 or more and --vectors {_TOP} or more")
    needed = build_memory(options.vectors, options.width)
    allow(
        needed, options.memory, what="this benchmark", advice="raise --memory, or lower --vectors"
    )
    need("faiss", extra="retrieval", purpose="bench.py retrieval").omp_set_num_threads(
        options.threads
    )
    if options.folder is not None:
        options.folder.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="avssl-", dir=options.folder))
    try:
        return _measure(options, folder)
    finally:
        shutil.rmtree(folder)


def made_up(number: int, width: int, *, clusters: int, seed: int) -> Iterator[np.ndarray]:
    """Unit vectors in portions, fp32 [n, D].

    With clusters, each is a centre plus noise, of equal mean length, scaled to the sphere. Cluster
    k is drawn with a probability as 1 / (k + 10), and the noise's deviation falls with the
    direction j as 1 / sqrt(j + 1), in directions turned at random and shared by all clusters: large
    and small groups, and few directions that matter, as in learned features. Without clusters,
    each vector is noise.
    """
    shared = np.random.default_rng(0)
    centres = shared.standard_normal((clusters, width), dtype=np.float32)  # [C, D]
    turn = np.linalg.qr(shared.standard_normal((width, width)))[0]  # [D, D]
    spread = 1 / np.sqrt(1 + np.arange(width))
    spread *= np.sqrt(width / (spread**2).sum())
    shape = (spread[:, None] * turn).astype(np.float32)  # [D, D]
    share = 1 / (10 + np.arange(clusters))
    draw = np.random.default_rng([1, seed])
    for first in range(0, number, _PORTION):
        size = min(_PORTION, number - first)
        x = draw.standard_normal((size, width), dtype=np.float32)  # [n, D]
        if clusters:
            x = x @ shape
            x += centres[draw.choice(clusters, size, p=share / share.sum())]
        yield x / np.linalg.norm(x, axis=1, keepdims=True)


def _measure(options: argparse.Namespace, folder: Path) -> int:
    """Build, ask and print; 1 if a target is missed, else 0."""
    number, width = options.vectors, options.width
    kind = f"{options.clusters} clusters" if options.clusters else "no structure"
    print(
        f"{number} vectors of width {width}, {kind}, {options.precision}, "
        f"faiss with {options.threads} threads"
    )
    begin = time.perf_counter()
    write_vectors(
        folder / "made_up.npy",
        made_up(number, width, clusters=options.clusters, seed=0),
        number=number,
        width=width,
        precision=options.precision,
    )
    print(f"made in {time.perf_counter() - begin:.1f} s")
    vectors: np.ndarray = np.load(folder / "made_up.npy", mmap_mode="r")
    file = folder / "made_up.faiss"
    begin = time.perf_counter()
    recipe = build_nearest(vectors, file, say=print)
    size = file.stat().st_size if file.is_file() else 0
    print(
        f"built in {time.perf_counter() - begin:.1f} s, {spoken(size)} beside vectors of "
        f"{spoken(vectors.nbytes)}: {recipe}"
    )
    fresh = made_up(options.queries + _WARM_UP, width, clusters=options.clusters, seed=1)
    queries = np.concatenate(list(fresh)).astype(np.float64)  # [Q, D]
    queries /= np.linalg.norm(queries, axis=1, keepdims=True)
    begin = time.perf_counter()
    wanted = exact_rows(vectors, queries[_WARM_UP:], top=_TOP)
    print(f"comparing all: {1000 * (time.perf_counter() - begin) / options.queries:.1f} ms a query")
    nearest = Nearest(vectors, recipe, file)
    seconds, found = [], []
    for query in queries:
        begin = time.perf_counter()
        rows, _ = nearest.search(query, top=_TOP)
        seconds.append(time.perf_counter() - begin)
        found.append(rows)
    p50, p95 = np.quantile(1000 * np.array(seconds[_WARM_UP:]), [0.5, 0.95])
    share = recall(np.stack(found[_WARM_UP:]), wanted)
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    print(
        f"one query at a time, {options.queries} of them: p50 {p50:.1f} ms, p95 {p95:.1f} ms, "
        f"recall@{_TOP} {share:.4f}; peak memory {spoken(peak)}, pages of the map included"
    )
    print("the files were in memory (a warm page cache), as after the first queries of a service")
    missed = []
    if p50 > _MILLISECONDS:
        missed.append(f"p50 {p50:.1f} ms is above {_MILLISECONDS:g} ms")
    if share < _RECALL:
        missed.append(f"recall@{_TOP} {share:.4f} is below {_RECALL}")
    print(f"missed: {'; '.join(missed)}" if missed else "both targets are met")
    return int(bool(missed))
