"""Command-line arguments that tools share, for `argparse`; mistakes end with exit code 2."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TYPE_CHECKING

from avssl.errors import UserError

if TYPE_CHECKING:
    from avssl.data.labels import LabelFiles


def count(text: str) -> int:
    """A whole number above 0."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a whole number above 0, found '{text}'")
    return int(text)


def whole(text: str) -> int:
    """A whole number from 0 to 2^32 - 1, such as a seed."""
    if not text.isdecimal() or int(text) >= 2**32:
        raise argparse.ArgumentTypeError(f"must be a whole number, 0 or more, found '{text}'")
    return int(text)


def amount(text: str) -> float:
    """A finite number above 0."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (value > 0 and math.isfinite(value)):
        raise argparse.ArgumentTypeError(f"must be a number above 0, found '{text}'")
    return value


def share(text: str) -> float:
    """A number from 0 to 1."""
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"must be a number from 0 to 1, found '{text}'")
    return value


def size(text: str) -> tuple[str, int]:
    """NAME=NUMBER, such as heads=12."""
    name, _, number = text.partition("=")
    if not name.isidentifier() or not number.isdecimal():
        raise argparse.ArgumentTypeError(f"must be NAME=NUMBER, such as heads=12, found '{text}'")
    return name, int(number)


def add_model_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """--stage, --layout, --allow and --sizes: how `avssl.load` reads the model."""
    parser.add_argument("--stage", help="of a run folder, such as stage1; default: the last")
    parser.add_argument("--layout", help="of a foreign checkpoint; default: found out")
    parser.add_argument(
        "--allow", nargs="+", default=[], metavar="PATTERN",
        help="of a foreign checkpoint: tensors that may be missing or unexpected",
    )  # fmt: skip
    parser.add_argument(
        "--sizes", nargs="+", type=size, default=[], metavar="NAME=NUMBER",
        help="of a foreign checkpoint: what its tensors do not tell, such as heads=12",
    )  # fmt: skip


def add_label_options(parser: argparse.ArgumentParser | argparse._ArgumentGroup) -> None:
    """--labels, --format and --classes, which `label_files` reads."""
    from avssl.data.label_formats import FORMATS

    parser.add_argument(
        "--labels",
        nargs="+",
        metavar="FILE",
        help="published label files for a folder of media; SPLIT=FILE where they name no split",
    )
    parser.add_argument("--format", choices=FORMATS, help="of --labels")
    parser.add_argument(
        "--classes", type=Path, metavar="FILE", help="only these of --labels, one a line"
    )


def label_files(given: argparse.Namespace) -> LabelFiles | None:
    """The label files that a command line names.

    Raises UserError for one of the options without the others.
    """
    if (given.labels is None) != (given.format is None):
        raise UserError("--labels and --format go together: name the files and their format")
    if given.labels is None:
        if given.classes is not None:
            raise UserError("--classes chooses among those of --labels: name label files")
        return None
    from avssl.data.labels import LabelFiles, read_classes

    classes = None if given.classes is None else read_classes(given.classes)
    return LabelFiles(given.labels, given.format, classes)
