"""Train an experiment, stage after stage; the same command continues a run that ended early.

python tools/train.py configs/mavil.yaml
python tools/train.py configs/mavil.yaml run=runs/wide args.width=192 train.lr=5e-4
torchrun --nproc-per-node 8 tools/train.py configs/paper/mavil_audioset.yaml train.parallel=fsdp
"""

import argparse
from pathlib import Path

from avssl.errors import run_tool


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path, help="experiment file, such as configs/mavil.yaml")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key.sub=value",
        help="values that replace those of the file",
    )
    parser.add_argument(
        "--check", action="store_true", help="check the experiment and its graphs, then stop"
    )
    options = parser.parse_intermixed_args()

    from avssl.train.run import check, train  # after the arguments, so that --help is quick

    if options.check:
        check(options.experiment, options.overrides)
    else:
        train(options.experiment, options.overrides)


if __name__ == "__main__":
    run_tool(main)()
