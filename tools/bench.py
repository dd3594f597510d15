"""Measure something: each benchmark prints a table of what it found.

python tools/bench.py graph        # the configured MAViL against the same model by hand
python tools/bench.py attention    # attention backends side by side
python tools/bench.py data ...     # clips per second of a manifest
python tools/bench.py extraction RUN   # features to disk against a bare loop
python tools/bench.py retrieval    # search among made-up vectors
python tools/bench.py lengths      # batches of clips of similar length against padded ones
python tools/bench.py teacher_cache    # a student whose teachers' targets are on disk
python tools/bench.py teachers     # a teacher up to the aligned block against all of it
python tools/bench.py decoding RUN # greedy and beam search of a recogniser
"""

import importlib
import sys

from avssl.errors import UserError, run_tool

BENCHMARKS = (
    "graph",
    "attention",
    "data",
    "extraction",
    "retrieval",
    "lengths",
    "decoding",
    "teacher_cache",
    "teachers",
)


def main() -> int | None:
    """Hand the options behind the name to ``main`` of ``avssl.bench.<name>``."""
    name = sys.argv[1] if len(sys.argv) > 1 else "--help"
    if name in ("-h", "--help"):
        print(__doc__)
        return 0
    if name not in BENCHMARKS:
        raise UserError(f"no benchmark '{name}': choose one of {', '.join(BENCHMARKS)}")
    return importlib.import_module(f"avssl.bench.{name}").main(sys.argv[2:])


if __name__ == "__main__":
    run_tool(main)()
