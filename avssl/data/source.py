"""From `data.source` to a scanned manifest: built-in corpus, folder of media, or manifest file."""

import os
from pathlib import Path

from avssl.data.config import DataConfig
from avssl.data.manifest import Manifest
from avssl.data.processes import server_context
from avssl.data.scan import ProgressLine, ScanCache, listed_clips, scan_clips
from avssl.errors import UserError
from avssl.files import cache_folder


def open_source(config: DataConfig) -> Manifest:
    """The scanned manifest that `data.source` names, with a split for every clip.

    `corpus:NAME` renders the built-in corpus on first use. A folder is scanned (its manifest.csv
    is taken where there is one), and so are rows of a manifest that lack the recorded columns;
    results are kept in the cache for files that do not change.

    Raises:
        UserError: the source is none of these.
    """
    if config.workers:
        server_context()  # imports what loader workers need while the caller goes on
    source, cache = config.source, cache_folder(config.cache)
    if source.startswith("corpus:"):
        from avssl.data.corpora import ensure_corpus

        return Manifest.read(ensure_corpus(source.removeprefix("corpus:"), cache)).with_splits()
    path = Path(source).expanduser()
    if not path.exists():
        raise UserError(
            f"the data source {source!r} is neither a folder nor a manifest; give one of these, or "
            "corpus:scenes for the built-in clips"
        )
    return scanned(listed_clips(path), source, cache).with_splits()


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
