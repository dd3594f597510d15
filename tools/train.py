"""Train an experiment, stage after stage.

    python tools/train.py configs/mavil.yaml
    python tools/train.py configs/mavil.yaml run=runs/wide args.width=192 train.lr=5e-4
    torchrun --nproc-per-node 8 tools/train.py configs/paper/mavil_audioset.yaml train.parallel=fsdp

The same command continues a run that ended early. Mistakes in the configuration are listed before
any data is read (`tools/graph.py check` does only that).
"""

import argparse
import os
from pathlib import Path

from avssl.errors import run_tool


def main() -> int:
    """Read the command line and train; the exit code, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("experiment", type=Path, help="experiment file, such as configs/mavil.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="replaces a value of the file"
    )
    options = parser.parse_args()

    from avssl.train.run import train  # after the arguments, so that --help is quick

    code = train(options.experiment, options.overrides)
    if code == 0 and os.environ.get("RANK", "0") == "0":
        _note(options.experiment, options.overrides)
    return code


def _note(path: Path, overrides: list[str]) -> None:
    """Say what this tool has not done."""
    from avssl.train.experiment import load_experiment

    if load_experiment(path, overrides, shapes=False).config.speech is not None:
        print(
            "the section 'speech' was not read: the same arguments to tools/finetune.py average "
            "the checkpoints of this run and score what the model reads"
        )


if __name__ == "__main__":
    run_tool(main)()
