"""Turn videos of talking faces into what lip reading learns from: stabilised crops of the mouth.

Every picture's face is found and followed, its landmarks are smoothed over 6 pictures on either
side, it is turned and scaled to a mean face, and 96 x 96 pixels around the mouth are kept: H.264
without loss at 25 pictures a second, and a 16 kHz wav beside it. The folder gets manifest.csv,
skipped.csv (every clip without crops and why) and sheet.jpg (some pictures of some clips: look at
it). Stopped runs go on where they were. Needs: pip install 'avssl[lips]'

    python tools/prepare_lips.py my_talks prepared                      # a folder or a manifest.csv
    python tools/prepare_lips.py lrs3 prepared --layout lrs3
    python tools/prepare_lips.py my_talks prepared --landmarks points   # of another detector

Layouts:
  manifest   a manifest.csv, or any folder of videos (the default)
  lrs3       pretrain/, trainval/ and test/ with SPEAKER/CLIP.mp4 and CLIP.txt
  lrs2       main/ and pretrain/ with the same, and train.txt, val.txt, test.txt
  grid       GRID's videos in folders s1 to s34, texts from .align files, else from the names
  voxceleb2  dev/mp4/ and test/mp4/ with SPEAKER/VIDEO/CLIP.mp4, sound in aac/ or in the clips

The largest face that at least half of the pictures show counts. A clip is skipped if there is none,
if another face that stays is nearly as large, if the face is missing for more than --gap pictures
in a row, or if the file is damaged. Clips without sound are kept, and so are those whose text is
empty, for pre-training. Exit code: 0, or 2 for wrong use and where no clip could be prepared.
"""

import argparse
import os
from pathlib import Path

from avssl.arguments import amount, count, share, whole
from avssl.errors import UserError, run_tool


@run_tool
def main() -> None:
    """Read the command line and prepare."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", type=Path, help="folder of the corpus, or a manifest.csv")
    parser.add_argument("target", type=Path, help="folder for the crops")
    parser.add_argument(
        "--layout", choices=["manifest", "lrs3", "lrs2", "grid", "voxceleb2"], default="manifest"
    )
    parser.add_argument(
        "--landmarks", type=Path, metavar="FOLDER",
        help="landmarks of another detector: CLIP.npy, .json or .csv for each clip, in the same "
        "tree of folders, of 68, 5, 468 or 478 points [T, P, 2] in pixels",
    )  # fmt: skip
    parser.add_argument(
        "--gap", type=whole, default=10,
        help="pictures in a row in which the face may be missing; default 10",
    )  # fmt: skip
    parser.add_argument(
        "--longest", type=amount, default=24.0, metavar="SECONDS",
        help="longer clips are cut, between words whose times are known, or evenly where there is "
        "no text; default 24",
    )  # fmt: skip
    parser.add_argument(
        "--quality", type=int, choices=range(52), metavar="CRF", default=0,
        help="x264's crf, 0 to 51; default 0: lossless",
    )  # fmt: skip
    parser.add_argument(
        "--val-share", type=share, default=0.04,
        help="of the speakers, held back as val where the corpus names none; default 0.04",
    )  # fmt: skip
    parser.add_argument("--retry", action="store_true", help="try clips again that were skipped")
    parser.add_argument(
        "--sheet", type=count, default=30, metavar="ROWS", help="clips on sheet.jpg, at most 400"
    )
    parser.add_argument("--workers", type=count, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--time-limit", type=amount, default=600.0, help="seconds for one file")
    options = parser.parse_args()
    if options.landmarks is not None and not options.landmarks.is_dir():
        raise UserError(f"--landmarks {options.landmarks} is not a folder")
    if options.sheet > 400:
        raise UserError(f"--sheet {options.sheet}: a picture holds at most 400 rows")
    if options.longest < 1:
        raise UserError(f"--longest must be at least 1 s, found {options.longest:g}")

    # after the arguments: --help is quick
    from avssl.lips.layouts import read_layout
    from avssl.lips.prepare import Settings, prepare_lips

    prepare_lips(
        read_layout(options.source, options.layout, longest=options.longest, val=options.val_share),
        options.target,
        Settings(
            gap=options.gap,
            longest=options.longest,
            quality=options.quality,
            landmarks="" if options.landmarks is None else os.path.abspath(options.landmarks),
        ),
        workers=options.workers,
        limit=options.time_limit,
        rows=options.sheet,
        retry=options.retry,
    )


if __name__ == "__main__":
    main()
