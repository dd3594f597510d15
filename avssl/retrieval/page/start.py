"""`tools/retrieve.py serve`: find or build the index, load the model, and serve the page."""

from __future__ import annotations

import hashlib
import os
import re
import signal
import sys
from pathlib import Path

import avssl
from avssl.errors import UserError
from avssl.files import cache_folder
from avssl.page.server import PageServer
from avssl.retrieval.build import index_clips
from avssl.retrieval.page.answers import Page
from avssl.retrieval.search import Search
from avssl.retrieval.towers import towers_of

RUN = Path("runs/mavil")  # what `tools/train.py configs/mavil.yaml` leaves
_WORKERS = 4  # processes that read clips, at most


def serve(
    *,
    index: Path | None,
    run: Path | None,
    source: str | None,
    split: str | None,
    host: str,
    port: int,
    memory: int,
) -> None:
    """Serve the page until Ctrl-C or SIGTERM.

    Args:
        index: an index folder; None: one is kept for `run` and `source`, and made on first use.
        run: the model. source: clips to search among; by default the test split of the run's own.

    Raises:
        UserError: no such run or index, no clip, or a port that is taken.
    """
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # copies of clips are removed, too
    server = PageServer(host=host, port=port)  # before anything that takes time
    if index is None:
        index = run_index(run or RUN, source, split, memory=memory)
    search = Search.open(index, run=run, memory=memory)
    page = Page(search)
    for warning in filter(None, map(search.warning, search.modalities)):
        print(f"warning: {warning}", file=sys.stderr)
    print(f"loading {search.header.model} ...", file=sys.stderr, flush=True)
    page.warm_up()
    print(f"{server.url} shows {page.title} (Ctrl-C ends it)", flush=True)
    server.serve(page)


def run_index(run: Path, source: str | None, split: str | None, *, memory: int) -> Path:
    """The index kept for a run and a source: new clips are added, others are not encoded again.

    It lies in the run folder; in the cache for other models, and where the run is read-only.
    """
    if not run.exists():
        raise UserError(
            f"there is no run at {run}: name one with --run or an index with --index, or train the "
            "built-in one first: python tools/train.py configs/mavil.yaml"
        )
    encoders = avssl.load(run)
    if source is None:
        source, split = encoders.model.data.source, split or "test"
    elif not source.startswith("corpus:"):
        source = os.path.abspath(os.path.expanduser(source))
    # another model or source is another index
    prints = [encoders[name].fingerprint for name in towers_of(encoders).values()]
    mark = hashlib.sha256(os.fsencode("\n".join([source, *prints]))).hexdigest()[:12]
    stem = re.sub(r"\W+", "-", source.removeprefix("corpus:").rstrip("/").split("/")[-1])
    in_run = (run / "checkpoints").is_dir() and os.access(run, os.W_OK)
    folder = (run if in_run else cache_folder()) / "indexes" / f"{stem}-{split or 'all'}-{mark}"
    if not (folder / "index.json").is_file():
        print(f"first use: {source} is indexed into {folder}", file=sys.stderr, flush=True)
    workers = max(1, min(_WORKERS, len(os.sched_getaffinity(0))))
    done = index_clips(source, run=run, folder=folder, split=split, memory=memory, workers=workers)
    if done.unreadable:
        path, reason = done.unreadable[0]
        more = f" and {len(done.unreadable) - 1} more" if len(done.unreadable) > 1 else ""
        print(f"cannot be read: {path} ({reason}){more}", file=sys.stderr, flush=True)
    return folder
