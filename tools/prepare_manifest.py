"""Scan a folder of media, or complete a manifest, and write down all that reading needs.

Every file is decoded once, in parallel, by processes that may crash or hang without harm. The
manifest then names each file's reader, pictures, duration, rotation and sound offset; files that
cannot be used are listed with the reason, here and in the column `reason`.

    python tools/prepare_manifest.py my_clips                     # writes my_clips/manifest.csv
    python tools/prepare_manifest.py my_clips --out manifest.csv  # paths relative to this folder
    python tools/prepare_manifest.py labels.csv                   # adds the recorded columns
    python tools/prepare_manifest.py lrs3 vox2 --out both.csv     # one manifest of both, above them
    python tools/prepare_manifest.py vggsound --format vggsound --labels vggsound.csv

Folder names become labels where there are at least two; without a column `split` the split of a
clip follows from its path (80% train, 10% val, 10% test). With label files of a published data set
the manifest lists the clips that they label, and what has no file is named. Where several sources
are joined, each keeps its splits, and a path that comes twice is an error. An interrupted scan
goes on where it was.
"""

import argparse
import os
from pathlib import Path

from avssl.arguments import add_label_options, amount, count, label_files
from avssl.errors import run_tool


@run_tool
def main() -> None:
    """Read the command line and write the manifest."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", type=Path, nargs="+",
        help="folder of media, or a manifest to complete; several are joined in --out",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="default: FOLDER/manifest.csv, or the manifest")
    parser.add_argument("--workers", type=count, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--time-limit", type=amount, default=120.0, help="seconds for one file")
    parser.add_argument("--again", action="store_true", help="probe files that were probed before")
    add_label_options(parser)
    options = parser.parse_args()
    labels = label_files(options)

    from avssl.data.prepare import prepare_manifest  # after the arguments: --help is quick

    prepare_manifest(
        options.source[0],
        options.out,
        also=options.source[1:],
        workers=options.workers,
        limit=options.time_limit,
        again=options.again,
        labels=labels,
    )


if __name__ == "__main__":
    main()
