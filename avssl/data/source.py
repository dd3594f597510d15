"""From `data.source` to a scanned manifest: built-in corpus, folder, shards, or manifest file."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from avssl.data.config import DataConfig
from avssl.data.manifest import COLUMNS, Manifest
from avssl.data.processes import server_context
from avssl.data.scan import ProgressLine, ScanCache, listed_clips, scan_clips
from avssl.data.shards import shard_files
from avssl.errors import UserError
from avssl.files import cache_folder


def open_source(config: DataConfig) -> Manifest:
    """The scanned manifest that `data.source` names, with a split for every clip, labels from the
    column `data.label`, and of the train split only those that `data.only` takes.

    `corpus:NAME` renders the built-in corpus on first use. A folder is scanned (its manifest.csv
    is taken where there is one), and so are tar shards, and rows of a manifest that lack the
    recorded columns; results are kept in the cache for files that do not change.

    Raises:
        UserError: the source is none of these, there is no such column, or `data.only` takes no
            clip.
    """
    manifest = _opened(config)
    if config.label is not None:
        manifest = _labelled(manifest, config.label)
    return manifest if config.only is None else _chosen(manifest, config.only)


def _opened(config: DataConfig) -> Manifest:
    """All clips of the source."""
    if config.workers:
        server_context()  # imports what loader workers need while the caller goes on
    source, cache = config.source, cache_folder(config.cache)
    if source.startswith("corpus:"):
        from avssl.data.corpora import ensure_corpus

        return Manifest.read(ensure_corpus(source.removeprefix("corpus:"), cache)).with_splits()
    path = Path(source).expanduser()
    if not path.exists() and not shard_files(path):
        raise UserError(
            f"the data source {source!r} is neither a folder nor a manifest nor shards "
            "(a-{000..010}.tar); give one of these, or corpus:scenes for the built-in clips"
        )
    return scanned(listed_clips(path), source, cache).with_splits()


def _labelled(manifest: Manifest, column: str) -> Manifest:
    """With the cells of a column as labels."""
    if column == "label":
        return manifest
    cells = _column(manifest, column, "the classes are asked of")
    clips = [replace(clip, label=cell) for clip, cell in zip(manifest.clips, cells, strict=True)]
    return replace(manifest, clips=clips)


def _column(manifest: Manifest, column: str, asked: str) -> list[str]:
    """The cells of a column of the user's own, one for each clip.

    asked: begins what is said where there is none.

    Raises:
        UserError: there is none of that name.
    """
    cells = [clip.extra.get(column) for clip in manifest.clips]
    if not any(cell is not None for cell in cells):
        known = sorted({name for clip in manifest.clips for name in clip.extra})
        if not known:
            raise UserError(
                f"{asked} the column {column!r}, but it must be one of your own, and the clips in "
                f"{manifest.root} have none: list them in a manifest.csv with such a column"
            )
        why = "is none of your own in" if column in COLUMNS else "is not in"
        raise UserError(
            f"{asked} the column {column!r}, which {why} the manifest in {manifest.root}; columns "
            f"of your own in it: {', '.join(known)}"
        )
    return [(cell or "").strip() for cell in cells]


def _chosen(manifest: Manifest, only: Mapping[str, str | int]) -> Manifest:
    """Without the train clips that have another value in one of these columns.

    Raises:
        UserError: there is no such column, or no clip with that value.
    """
    for column, value in only.items():
        wanted = str(value).strip()
        found: set[str] = set()
        kept = []
        for clip, cell in zip(
            manifest.clips, _column(manifest, column, "data.only names"), strict=True
        ):
            if clip.split == "train":
                found.add(cell)
            if clip.split != "train" or cell == wanted:
                kept.append(clip)
        if wanted not in found:
            values = [cell or "(empty)" for cell in sorted(found)]
            more = f" and {len(values) - 10} more" if len(values) > 10 else ""
            raise UserError(
                f"data.only takes {column} = {wanted!r}, which no train clip of the manifest in "
                f"{manifest.root} has; found there: {', '.join(values[:10]) or 'no clip'}{more}"
            )
        manifest = replace(manifest, clips=kept)
    return manifest


def scanned(manifest: Manifest, source: str, cache: Path) -> Manifest:
    """The manifest with the recorded columns of all its rows filled.

    source: what progress calls it. cache: where results of earlier scans are kept.
    """
    unscanned = [row for row, clip in enumerate(manifest.clips) if not clip.scanned]
    if not unscanned:
        return manifest
    clips = list(manifest.clips)
    probed = scan_clips(
        manifest.root,
        [clips[row] for row in unscanned],
        workers=max(1, len(os.sched_getaffinity(0))),
        progress=ProgressLine(f"scanning {source}:"),
        kept=ScanCache.of(manifest.root, cache),
    )
    for row, clip in zip(unscanned, probed, strict=True):
        clips[row] = clip
    return Manifest(manifest.root, clips)
