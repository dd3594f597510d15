"""Measure a trained model on labelled clips, with its encoders frozen.

    python tools/evaluate.py runs/mavil --task linear --data corpus:scenes --out results/mavil
    python tools/evaluate.py runs/mavil --task retrieval --data corpus:scenes
    python tools/evaluate.py runs/mavil --task linear --data ESC-50 --format esc50 \\
        --labels ESC-50/meta/esc50.csv --folds --span all --untrained
    python tools/evaluate.py checkpoint.pth --task knn --multi-label --data audioset_clips \\
        --labels balanced_train_segments.csv eval_segments.csv --format audioset

MODEL is a run folder, an exported folder, or a checkpoint of another project. The probe's penalty
is fixed, so that nothing is chosen by the scored clips. Clips that cannot be used are counted and
named beside the figures.
"""

import argparse
from pathlib import Path

from avssl.arguments import count
from avssl.errors import UserError, run_tool

FORMATS = "audioset vggsound esc50 esc10 kinetics kinetics-sounds ucf101".split()
SPLITS = ("train", "val", "test")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="run folder, exported folder or checkpoint")
    parser.add_argument("--task", required=True, choices=["retrieval", "knn", "linear"])
    parser.add_argument("--data", required=True, help="corpus:NAME, folder of media or manifest")
    parser.add_argument("--out", type=Path, help="folder for results and pictures")
    clips = parser.add_argument_group("clips")
    clips.add_argument(
        "--labels", nargs="+", metavar="FILE",
        help="label files for the media in --data; SPLIT=FILE where the format names no split",
    )  # fmt: skip
    clips.add_argument("--format", choices=FORMATS, help="of --labels")
    clips.add_argument("--classes", type=Path, metavar="FILE", help="only these, one a line")
    clips.add_argument("--multi-label", action="store_true", help="labels are separated by ';'")
    clips.add_argument("--fit", choices=SPLITS, default="train", help="split to fit to")
    clips.add_argument("--split", choices=SPLITS, default="test", help="split to score")
    clips.add_argument(
        "--folds", nargs="?", const="fold", metavar="COLUMN",
        help="hold each value of this column out once, instead of splits (default: fold)",
    )  # fmt: skip
    features = parser.add_argument_group("features")
    features.add_argument("--encoders", nargs="+", default=[], help="default: all that fit")
    features.add_argument("--layer", type=int, help="0 embeddings, k after block k; default: last")
    features.add_argument("--pool", choices=["mean", "cls"], default="mean")
    features.add_argument(
        "--span", choices=["middle", "all"], default="middle",
        help="the middle window of a clip, or the mean over windows that cover it",
    )  # fmt: skip
    features.add_argument("--stage", help="of a run; default: the last")
    features.add_argument("--layout", help="of a foreign checkpoint; default: found out")
    features.add_argument(
        "--allow", nargs="+", default=[], metavar="PATTERN",
        help="tensors of a foreign checkpoint that may be missing or unexpected",
    )  # fmt: skip
    features.add_argument(
        "--untrained", action="store_true", help="also the same encoders before training"
    )
    parser.add_argument(
        "--picture", choices=["tsne", "umap", "none"], default="tsne", help="layout of features"
    )
    parser.add_argument("--seed", type=int, default=0, help="of layouts and untrained encoders")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--workers", type=int, default=1, help="processes that read clips")
    parser.add_argument("--batch", type=count, default=64, help="clips encoded at a time")
    return parser.parse_args()


def main() -> None:
    """Read the command line, evaluate, print and write."""
    given = arguments()

    from avssl.data.labels import read_classes  # after the arguments: --help is quick
    from avssl.eval.clips import LabelFiles
    from avssl.eval.evaluation import Options, evaluate
    from avssl.eval.sheets import claim, show, write

    if (given.labels is None) != (given.format is None):
        raise UserError("--labels and --format go together: name the files and their format")
    if given.classes is not None and given.labels is None:
        raise UserError("--classes chooses among those of --labels: name label files")
    if given.task == "retrieval" and given.folds is not None:
        raise UserError("--folds belongs to linear and knn: retrieval fits nothing")
    if given.task != "retrieval" and given.folds is None and given.fit == given.split:
        raise UserError(f"--fit and --split are both {given.split}: score other clips")
    labels = None
    if given.labels is not None:
        classes = read_classes(given.classes) if given.classes is not None else None
        labels = LabelFiles(given.labels, given.format, classes)
    if given.out is not None:
        claim(given.out)
    found = evaluate(
        Options(
            model=given.model,
            task=given.task,
            data=given.data,
            out=given.out,
            labels=labels,
            multi_label=given.multi_label,
            split=given.split,
            fit=given.fit,
            folds=given.folds,
            encoders=given.encoders,
            layer=given.layer,
            pool=given.pool,
            span=given.span,
            stage=given.stage,
            layout=given.layout,
            allow=given.allow,
            untrained=given.untrained,
            picture=None if given.picture == "none" else given.picture,
            seed=given.seed,
            device=given.device,
            workers=given.workers,
            batch=given.batch,
        )
    )
    if given.out is not None:
        write(found, given.out)
    show(found)
    if given.out is not None:
        print(f"written: {given.out}")


if __name__ == "__main__":
    run_tool(main)()
