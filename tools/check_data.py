"""Decode every clip of a manifest or folder to its end and list each bad file with the reason.

    python tools/check_data.py my_clips/manifest.csv

Exit code: 0 all good, 1 some file is bad, 2 wrong use.
"""

import argparse
import os
from pathlib import Path

from avssl.arguments import amount, count
from avssl.errors import run_tool


@run_tool
def main() -> int:
    """Read the command line, check, and return the exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "source", type=Path, help="manifest.csv, a folder of media or pictures, or shards"
    )
    parser.add_argument("--workers", type=count, default=os.cpu_count(), help="default: all cores")
    parser.add_argument("--time-limit", type=amount, default=120.0, help="seconds for one file")
    options = parser.parse_args()

    from avssl.data.prepare import check_data  # after the arguments: --help is quick

    return check_data(options.source, workers=options.workers, limit=options.time_limit)


if __name__ == "__main__":
    main()
