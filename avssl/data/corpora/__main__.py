"""A render process of `cache.py`: `python -m avssl.data.corpora NAME ROOT SEED`."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from avssl.data.corpora.cache import CORPORA


def main() -> None:
    """Clips come as lines `split index` on stdin, and each is answered by a line on stdout.

    Ends when stdin closes, and so when its parent dies.
    """
    corpus, root, seed = CORPORA[sys.argv[1]], Path(sys.argv[2]), int(sys.argv[3])
    for line in sys.stdin:
        split, index = line.split()
        try:
            corpus.render(root, split, int(index), seed=seed)
            answer = "done"
        except OSError as error:
            answer = f"error {error.strerror or error}"
        try:
            os.write(sys.stdout.fileno(), f"{answer}\n".encode())
        except BrokenPipeError:  # the parent is gone
            return


main()
