"""Fine-tune a recogniser of speech: by lips, by ear or by both.

    python tools/finetune.py configs/finetune/vsr.yaml args.init=runs/raven:video
    python tools/finetune.py configs/finetune/asr.yaml run=runs/asr_scratch     # fresh weights
    python tools/finetune.py configs/finetune/vsr.yaml --pseudo-label corpus:talking

FILE is an experiment file with a section `speech` (`avssl.speech.config`). Units are trained where
it asks for that; then the trainer runs, the last checkpoints are averaged, and the splits are read
and scored. The same command goes on where one ended. With --pseudo-label the finished recogniser
writes transcripts of unlabelled clips, and a second one is trained on these and the labelled ones,
from the same start and for as many epochs, in <run>-round2. The command of that round is printed:
give it by hand for another schedule.
"""

import argparse
from pathlib import Path

from avssl.arguments import share
from avssl.errors import UserError, run_tool

CONFIDENCE = 0.8  # at laptop size keeps two thirds of the clips, and half of the mistaken words


def main() -> int:
    """Read the command line and fine-tune; the exit code, 130 after Ctrl-C."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path, help="such as configs/finetune/vsr.yaml")
    parser.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="replaces a value of the file"
    )
    parser.add_argument(
        "--pseudo-label", metavar="DATA",
        help="unlabelled clips for a second round: corpus:NAME, folder of media or manifest",
    )  # fmt: skip
    parser.add_argument(
        "--min-confidence", type=share,
        help=f"of transcripts that are kept, 0 to 1 (default: {CONFIDENCE:g}; 0: all)",
    )  # fmt: skip
    given = parser.parse_intermixed_args()
    if given.min_confidence is not None and given.pseudo_label is None:
        raise UserError("--min-confidence chooses among the clips of --pseudo-label: name these")

    if given.pseudo_label == "":
        raise UserError("--pseudo-label names no clips: give corpus:NAME, a folder or a manifest")
    if given.pseudo_label is not None:
        from avssl.speech.pseudo import second_round

        return second_round(
            given.file,
            given.overrides,
            source=given.pseudo_label,
            min_confidence=CONFIDENCE if given.min_confidence is None else given.min_confidence,
        )
    from avssl.speech.job import finetune  # after the arguments, so that --help is quick

    return finetune(given.file, given.overrides)


if __name__ == "__main__":
    run_tool(main)()
