"""A corpus in the cache: rendered once, by all cores, whole or not at all, and resumable."""

from __future__ import annotations

import contextlib
import errno
import os
import re
import selectors
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from avssl.data.corpora.corpus import Corpus
from avssl.data.corpora.objects import Objects
from avssl.data.corpora.scenes import Scenes
from avssl.data.corpora.talking import Talking
from avssl.data.manifest import Manifest
from avssl.errors import UserError
from avssl.files import cache_folder

CORPORA: dict[str, Corpus] = {corpus.name: corpus for corpus in (Scenes(), Talking(), Objects())}


def ensure_corpus(
    name: str, cache: Path | None = None, *, seed: int = 0, workers: int | None = None
) -> Path:
    """The manifest of a built-in corpus, rendered first if this cache does not hold it.

    Args:
        name: `scenes` (2,600 clips: 2,000 train, 200 val, 400 test), `talking` (2,400 clips:
            2,000 train, 200 val, 200 test), `objects` (5,440 clips: 4,160 train, 320 val, 960
            test), or `scenes-<clips>` and the like for another number.
        cache: folder; `$AVSSL_CACHE` or `~/.cache/avssl` when None.
        seed: of the corpus; another seed gives other clips.
        workers: render processes; one per available core when None.

    Raises:
        UserError: unknown corpus, no worker, a package that is not installed, a cache that cannot
            be written, or a full disk.

    A killed render goes on where it stopped. Of two processes that ask at the same time, the second
    waits for the first.
    """
    corpus, sizes = find_corpus(name)
    if (workers is not None and workers < 1) or seed < 0:
        raise UserError(
            f"rendering needs 1 worker or more and a seed of 0 or more: {workers=}, {seed=}"
        )
    cache = cache_folder(cache)
    folder = cache / f"{name}-v{corpus.version}-seed{seed}"
    manifest = folder / "manifest.csv"
    if manifest.exists():
        return manifest
    corpus.check()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        with _lock(cache / f"{folder.name}.lock"):
            if not manifest.exists():
                partial = cache / f"{folder.name}.partial"
                partial.mkdir(exist_ok=True)
                _render(corpus, partial, sizes, seed=seed, workers=workers or _cores())
                _manifest(corpus, partial, sizes, seed=seed).write(partial / "manifest.csv")
                os.rename(partial, folder)
    except OSError as error:
        raise UserError(
            f"cannot render corpus '{name}' into {cache}: {error.strerror or error}; "
            "set AVSSL_CACHE to a folder that can be written"
        ) from None
    return manifest


def find_corpus(name: str) -> tuple[Corpus, dict[str, int]]:
    """The corpus of a name and the clips of its splits.

    Raises:
        UserError: no such corpus, or a number of clips that it cannot have.
    """
    match = re.fullmatch(r"([a-z]+)(?:-(\d+))?", name)
    if not match or match[1] not in CORPORA:
        raise UserError(
            f"no built-in corpus '{name}'; there are {', '.join(map(repr, CORPORA))} and, with "
            "another number of clips, 'scenes-48' and the like"
        )
    corpus = CORPORA[match[1]]
    return corpus, corpus.sizes(int(match[2]) if match[2] else None)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """One process at a time; the operating system lets go of it when a process dies."""
    import fcntl

    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(
                f"waiting for another process that renders {path.stem}", file=sys.stderr, flush=True
            )
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _render(corpus: Corpus, root: Path, sizes: dict[str, int], *, seed: int, workers: int) -> None:
    """Render what is missing, in processes of their own.

    They are started as commands, not forked or spawned from this interpreter: no CUDA context,
    thread or unguarded main script can get in the way, and a data-loading worker may start them.
    """
    todo = [(split, index) for split, count in sizes.items() for index in range(count)]
    total = len(todo)
    todo = [item for item in todo if corpus.missing(root, *item)]
    _check_space(root, len(todo) * corpus.clip_bytes)
    package = str(Path(__file__).resolve().parents[3])
    environment = dict(os.environ, OMP_NUM_THREADS="1", OPENBLAS_NUM_THREADS="1")
    environment["PYTHONPATH"] = os.pathsep.join(
        filter(None, [package, os.environ.get("PYTHONPATH")])
    )
    command = [sys.executable, "-m", "avssl.data.corpora"]
    command += [corpus.name, str(root.resolve()), str(seed)]
    todo.reverse()
    processes: list[subprocess.Popen[str]] = []
    with _progress(root.stem, total) as advance, selectors.DefaultSelector() as selector:
        advance(total - len(todo))
        try:
            for _ in range(min(workers, len(todo))):
                process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env=environment,
                    start_new_session=True,  # Ctrl-C is for this process, which ends them
                )
                assert process.stdin and process.stdout
                processes.append(process)
                selector.register(process.stdout, selectors.EVENT_READ, process)
                _hand_out(process, todo)
            while selector.get_map():
                for key, _ in selector.select():
                    process = key.data
                    answer = process.stdout.readline().strip()
                    if answer == "done":
                        advance(1)
                        if not _hand_out(process, todo):
                            selector.unregister(process.stdout)
                    elif answer.startswith("error "):
                        raise OSError(errno.EIO, answer[6:])
                    else:
                        raise OSError(
                            errno.EIO, f"a render process ended with code {process.wait()}"
                        )
        finally:
            for process in processes:
                process.terminate()
                process.communicate()


def _hand_out(process: subprocess.Popen[str], todo: list[tuple[str, int]]) -> bool:
    """Give a process its next clip; False when none is left."""
    if not todo:
        return False
    assert process.stdin
    split, index = todo.pop()
    process.stdin.write(f"{split} {index}\n")
    process.stdin.flush()
    return True


def _check_space(root: Path, need: int) -> None:
    free = shutil.disk_usage(root).free
    if free < need:
        raise UserError(
            f"the corpus needs {need / 1e6:.0f} MB in {root.parent}, and "
            f"{free / 1e6:.0f} MB are free; "
            "make room or set AVSSL_CACHE to a folder on another disk"
        )


@contextlib.contextmanager
def _progress(title: str, total: int) -> Iterator:
    """A bar with the time left on a terminal, a line every ten seconds elsewhere.

    Gives `advance(count)`.
    """
    if sys.stderr.isatty():
        from rich import progress as bar
        from rich.console import Console

        columns = (
            bar.TextColumn("{task.description}"),
            bar.BarColumn(),
            bar.MofNCompleteColumn(),
            bar.TimeRemainingColumn(),
        )
        with bar.Progress(*columns, console=Console(stderr=True)) as progress:
            task = progress.add_task(f"rendering {title}", total=total)
            yield lambda count: progress.advance(task, count)
        return
    start, state = time.monotonic(), {"done": 0, "first": -1, "said": 0.0}

    def advance(count: int) -> None:
        if state["first"] < 0:
            state["first"] = count  # what an earlier, killed render left
        state["done"] += count
        passed = time.monotonic() - start
        new = state["done"] - state["first"]
        if new and (passed - state["said"] > 10 or state["done"] == total):
            state["said"] = passed
            left = passed / new * (total - state["done"])
            print(
                f"rendering {title}: {state['done']}/{total} clips, {left:.0f} s left",
                file=sys.stderr,
                flush=True,
            )

    yield advance


def _manifest(corpus: Corpus, root: Path, sizes: dict[str, int], *, seed: int) -> Manifest:
    """Rows in the order train, val, test."""
    rows = [
        corpus.row(root, split, index, seed=seed)
        for split, count in sizes.items()
        for index in range(count)
    ]
    return Manifest(root, rows)
