"""Clips per second that a manifest gives, where the time goes, and decord beside PyAV.

Letters: K pictures.
"""

import argparse
import dataclasses
import functools
import statistics
import time
from collections.abc import Callable, Sequence

import numpy as np

from avssl.arguments import amount, count
from avssl.bench.timing import alternate, median_ratio
from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.data.container import MediaError
from avssl.data.dataset import ClipDataset
from avssl.data.loader import Loader, make_loader
from avssl.data.manifest import Clip
from avssl.data.media import read_clip_sound, read_pictures
from avssl.data.source import open_source
from avssl.data.usable import extent
from avssl.errors import UserError


def main(argv: Sequence[str]) -> int:
    """Print clips/s of the loader, ms per clip by part, and the readers' ratio."""
    parser = argparse.ArgumentParser(prog="bench.py data", description=__doc__)
    parser.add_argument("source", nargs="?", default="corpus:scenes", help="as data.source")
    parser.add_argument("--window", type=amount, default=2.0, help="seconds")
    parser.add_argument("--frames", type=count, default=8, help="pictures per window")
    parser.add_argument("--size", type=count, default=96, help="pixels, square")
    parser.add_argument("--bins", type=count, default=64, help="mel bins")
    parser.add_argument("--workers", type=int, default=1, help="loader processes")
    parser.add_argument("--batch", type=count, default=32, help="clips")
    parser.add_argument("--seconds", type=amount, default=15.0, help="how long to load")
    parser.add_argument("--clips", type=count, default=8, help="clips read by decord and PyAV")
    options = parser.parse_args(argv)
    rows = round(options.window * 100)
    try:
        config = DataConfig(
            source=options.source,
            window=options.window,
            batch=options.batch,
            workers=options.workers,
            inputs={
                "audio": FbankConfig(bins=options.bins, frames=rows),
                "video": FramesConfig(frames=options.frames, size=options.size),
            },
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    manifest = open_source(config)
    dataset = ClipDataset(manifest, config)
    if len(dataset) < config.batch:
        config = dataclasses.replace(config, batch=len(dataset))
    print(dataset.describe(shown=3))
    print(
        f"{options.window:g} s of sound, {options.frames} pictures of {options.size} x "
        f"{options.size}, batch {config.batch}"
    )
    for workers in sorted({0, options.workers}):
        changed = dataclasses.replace(config, workers=workers)
        loader = make_loader(dataset, changed, seed=0, start_step=0, steps=10**6)
        first, rate = _rate(loader, seconds=options.seconds)
        print(f"{workers} workers: first batch after {first:.2f} s, then {rate:.1f} clips/s")
    _parts(dataset)
    _readers(dataset, clips=options.clips)
    return 0


def _rate(loader: Loader, *, seconds: float) -> tuple[float, float]:
    """Seconds to the first batch, and clips per second after it."""
    begin = time.perf_counter()
    first, clips = 0.0, 0
    for batch in loader:
        now = time.perf_counter()
        if not first:
            first, begin = now - begin, now
            continue
        clips += len(batch["clip"])
        if now - begin > seconds:
            break
    return first, clips / (now - begin)


def _parts(dataset: ClipDataset) -> None:
    """CPU milliseconds of one clip in this process, by what they go to."""
    clips = [dataset.clips[k] for k in range(min(len(dataset), 64))]
    window, recipe = dataset.config.window, _frames(dataset)
    spent: dict[str, list[float]] = {"pictures": [], "sound": []}
    for clip in clips:
        begin, length = extent(clip, video=True)
        start = begin + max(0.0, length - window) / 2
        times = start + np.arange(recipe.frames) * min(window, length) / recipe.frames
        file = dataset.root / clip.path
        read = functools.partial(read_pictures, file, clip, times, short_side=recipe.size)
        spent["pictures"].append(_cpu(read))
        path = dataset.root / clip.sound_path
        spent["sound"].append(
            _cpu(
                lambda: read_clip_sound(path, clip, start=start, seconds=window, sample_rate=16000)  # noqa: B023
            )
        )
    samples = [dataset[(0, index)] for index in range(len(clips))]
    spent["features"] = [_cpu(lambda: dataset.collate(samples)) / len(samples)]
    batch = dataset.collate(samples)
    spent["normalise"] = [_cpu(lambda: dataset.finish(batch)) / len(samples)]
    cells = [f"{name} {1000 * statistics.median(times):.2f}" for name, times in spent.items()]
    print(f"CPU ms per clip: {', '.join(cells)}")


def _cpu(call: Callable[[], object]) -> float:
    begin = time.process_time()
    call()
    return time.process_time() - begin


def _readers(dataset: ClipDataset, *, clips: int) -> None:
    """decord and PyAV alternate on the same pictures of the same files at the same size."""
    chosen = [clip for clip in dataset.clips if clip.reader in ("decord", "pyav")]
    chosen = chosen[:: max(1, len(chosen) // max(clips, 1))][:clips]
    if not chosen:
        print("no clip that decord could read: nothing to compare")
        return
    random, recipe = np.random.default_rng(0), _frames(dataset)
    ratios: list[float] = []
    milliseconds: dict[str, list[float]] = {"decord": [], "pyav": []}
    for clip in chosen:
        begin, length = extent(clip, video=True)
        window = min(dataset.config.window, length)
        start = begin + random.random() * (length - window)
        times = start + np.arange(recipe.frames) * window / recipe.frames  # [K]
        calls = {
            reader: functools.partial(_read, dataset, clip, reader, times, recipe.size)
            for reader in milliseconds
        }
        try:
            taken = alternate(calls, rounds=5)
        except MediaError as error:
            print(f"{clip.path}: {error}")
            continue
        ratios.append(median_ratio(taken, "pyav", "decord"))
        for reader, seconds in taken.items():
            milliseconds[reader].append(1000 * statistics.median(seconds))
    if ratios:
        cells = [f"{name} {statistics.median(ms):.1f} ms" for name, ms in milliseconds.items()]
        print(
            f"{recipe.frames} pictures of one clip: {', '.join(cells)}; PyAV / decord "
            f"{statistics.median(ratios):.2f} (median of {len(ratios)} clips)"
        )


def _frames(dataset: ClipDataset) -> FramesConfig:
    return next(i for i in dataset.config.inputs.values() if isinstance(i, FramesConfig))


def _read(
    dataset: ClipDataset, clip: Clip, reader: str, times: np.ndarray, size: int
) -> np.ndarray:
    changed = dataclasses.replace(clip, reader=reader)
    return read_pictures(dataset.root / clip.path, changed, times, short_side=size)
