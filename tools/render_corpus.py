"""Render a built-in corpus into the cache, or draw its contact sheet."""

from __future__ import annotations

import argparse
from pathlib import Path

from avssl.arguments import count
from avssl.data.corpora import ensure_corpus
from avssl.data.corpora.cache import find_corpus
from avssl.errors import UserError, run_tool


@run_tool
def main() -> None:
    """Read the command line, render or draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", nargs="?", default="scenes", help="scenes, talking, NAME-<clips>")
    parser.add_argument("--cache", type=Path, help="default: $AVSSL_CACHE or ~/.cache/avssl")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=count, help="render processes; default: one per core")
    parser.add_argument("--contact-sheet", type=Path, metavar="PNG", help="draw some clips")
    options = parser.parse_args()
    if options.contact_sheet:
        if options.contact_sheet.suffix != ".png":
            raise UserError(f"--contact-sheet {options.contact_sheet} must end in .png")
        find_corpus(options.name)[0].sheet(options.contact_sheet, seed=options.seed)
        print(options.contact_sheet)
        return
    print(ensure_corpus(options.name, options.cache, seed=options.seed, workers=options.workers))


if __name__ == "__main__":
    main()
