"""Measure a trained model on labelled clips: retrieval, neighbours, linear probe, fine-tuning.

    python tools/evaluate.py runs/mavil --task linear --data corpus:scenes --out results/mavil
    python tools/evaluate.py runs/mavil --task retrieval --data corpus:scenes
    python tools/evaluate.py runs/mavil --task linear --data ESC-50 --format esc50 \\
        --labels ESC-50/meta/esc50.csv --folds --span all --untrained
    python tools/evaluate.py runs/videomae --task knn --data clips --clips 5 --crops 3
    python tools/evaluate.py checkpoint.pth --task knn --multi-label --data audioset_clips \\
        --labels balanced_train_segments.csv eval_segments.csv --format audioset
    python tools/evaluate.py runs/mavil --task finetune --data esc10 \\
        --config configs/finetune/laptop.yaml train.epochs=20

MODEL is a run folder, an exported folder, or a checkpoint of another project. The probe's penalty
is fixed, so that nothing is chosen by the scored clips. Clips that cannot be used are counted and
named beside the figures.
"""

import argparse
from contextlib import nullcontext
from pathlib import Path

from avssl.arguments import add_label_options, add_model_options, count, label_files, whole
from avssl.errors import UserError, run_tool

SPLITS = ("train", "val", "test")
FINETUNE = ("config", "overrides")  # of finetune alone
SHARED = ("model", "task", "data", "out", "stage", "layout", "allow")  # of finetune and the others


def arguments() -> argparse.Namespace:
    """The command line.

    Raises UserError for options that do not go together.
    """
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="run folder, exported folder or checkpoint")
    parser.add_argument("--task", required=True, choices=["retrieval", "knn", "linear", "finetune"])
    parser.add_argument("--data", required=True, help="corpus:NAME, folder, shards or manifest")
    parser.add_argument(
        "--out", type=Path,
        help="folder for results and pictures: a new one, or the one of the same model and task",
    )  # fmt: skip
    clips = parser.add_argument_group("clips")
    add_label_options(clips)
    clips.add_argument(
        "--label-column", metavar="COLUMN",
        help="column of the manifest with the classes (default: label)",
    )  # fmt: skip
    clips.add_argument("--multi-label", action="store_true", help="labels are separated by ';'")
    clips.add_argument("--fit", choices=SPLITS, help="split to fit to (default: train)")
    clips.add_argument(
        "--split", choices=[*SPLITS, "all"],
        help="split to score (default: test); all is for retrieval alone",
    )  # fmt: skip
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
    features.add_argument(
        "--clips", type=count, default=1, metavar="N",
        help="the mean over N places spread evenly over a clip, from its first window to its last",
    )  # fmt: skip
    features.add_argument(
        "--crops", type=int, choices=[1, 3], default=1,
        help="the centre of pictures, or the mean over 3 crops along their longer side",
    )  # fmt: skip
    add_model_options(features)
    features.add_argument(
        "--untrained", action="store_true", help="also the same encoders before training"
    )
    parser.add_argument(
        "--picture", choices=["tsne", "umap", "none"], help="layout of features (default: tsne)"
    )
    parser.add_argument("--seed", type=whole, default=0, help="of layouts and untrained encoders")
    parser.add_argument("--device", choices=["auto", "cpu", "cuda"], default="auto")
    parser.add_argument("--workers", type=whole, default=1, help="processes that read clips")
    parser.add_argument("--batch", type=count, default=64, help="windows encoded at a time")
    tune = parser.add_argument_group("fine-tuning")
    tune.add_argument("--config", type=Path, help="such as configs/finetune/laptop.yaml")
    tune.add_argument(
        "overrides", nargs="*", metavar="key.sub=value", help="replaces a value of --config"
    )
    given = parser.parse_intermixed_args()
    _check(parser, given)
    given.fit, given.split = given.fit or "train", given.split or "test"
    return given


def _check(parser: argparse.ArgumentParser, given: argparse.Namespace) -> None:
    """Refuse what would be ignored."""
    finetune = given.task == "finetune"
    for name, value in vars(given).items():
        own = name in SHARED or (name in FINETUNE) == finetune
        if not own and value not in (parser.get_default(name), []):
            shown = " ".join(value) if name == "overrides" else f"--{name.replace('_', '-')}"
            advice = "; see the file of --config, and key=value" if finetune else ""
            raise UserError(f"{shown} does not belong to --task {given.task}{advice}")
    if finetune and given.config is None:
        raise UserError("--task finetune needs --config, such as configs/finetune/laptop.yaml")
    if finetune:
        return
    if given.task == "retrieval":
        for name, why in (
            ("folds", "retrieval fits nothing"),
            ("fit", "retrieval fits nothing"),
            ("label_column", "retrieval reads no labels"),
            ("picture", "the picture of retrieval is the matrix of similarities"),
        ):
            if getattr(given, name) is not None:
                option = name.replace("_", "-")
                raise UserError(f"--{option} belongs to linear and knn: {why}")
        return
    if given.label_column is not None and given.labels is not None:
        raise UserError("--label-column is of a manifest, and --labels are files: give one of them")
    if given.picture not in (None, "none") and given.out is None:
        raise UserError(f"--picture {given.picture} needs a folder to lie in: name it with --out")
    for name in ("fit", "split"):
        if given.folds is not None and getattr(given, name) is not None:
            raise UserError(f"--{name} has no place beside --folds, which scores every clip once")
    if given.split == "all":
        raise UserError("--split all is for retrieval: what is scored must not be fitted to")
    if given.folds is None and (given.fit or "train") == (given.split or "test"):
        raise UserError(f"--fit and --split are both {given.fit or given.split}: score other clips")


def main() -> None:
    """Read the command line, evaluate, print and write."""
    given = arguments()
    if given.task == "finetune":
        from avssl.finetune import run

        place = [] if given.out is None else [f"run={given.out}"]
        run(
            given.model,
            source=given.data,
            config=given.config,
            overrides=[*given.overrides, *place],
            stage=given.stage,
            layout=given.layout,
            allow=given.allow,
        )
        return

    labels = label_files(given)
    given.sizes = dict(given.sizes)

    from avssl.eval.evaluation import Options, evaluate  # after the arguments: --help is quick
    from avssl.eval.place import claimed
    from avssl.eval.sheets import show, write

    values = {name: value for name, value in vars(given).items() if name not in (
        "format", "classes", "labels", "picture", *FINETUNE)}  # fmt: skip
    picture = None if given.picture == "none" else given.picture or "tsne"
    options = Options(**values, labels=labels, picture=picture)
    with nullcontext() if given.out is None else claimed(given.out, given.task):
        found = evaluate(options)
        if given.out is not None:
            write(found, given.out)
    show(found)
    if given.out is not None:
        print(f"written: {given.out}")


if __name__ == "__main__":
    run_tool(main)()
