"""Reading a fine-tuning file, and merging its data section with the model's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from avssl.data.config import DataConfig
from avssl.errors import UserError
from avssl.finetune.config import Finetune
from avssl.graph.schema import fill
from avssl.graph.source import Document, Problems, read_yaml
from avssl.train.config import Experiment


def read_file(path: Path, overrides: Sequence[str] = ()) -> tuple[Finetune, Document]:
    """Read a fine-tuning file.

    Args:
        path: the YAML file.
        overrides: ``key.sub=value`` from the command line.

    Raises:
        ConfigError: every mistake, each with ``file:line:col``; those in `data` are found by
        `read_data`, which needs the model.
        UserError: it is an experiment file, such as those of recognisers.
    """
    problems = Problems()
    document = read_yaml(path, problems)
    problems.raise_if_any()
    assert document is not None
    if "stages" in document.data:
        raise UserError(f"{path} is an experiment: give it to tools/train.py or tools/finetune.py")
    document.override(overrides, problems)
    config = fill(Finetune, document, (), problems)
    problems.raise_if_any()
    assert config is not None
    return config, document


def refuse_classifier_file(path: Path) -> None:
    """Raise UserError for a fine-tuning file where an experiment is asked for: it has sections that
    only these have, and none that only an experiment has."""
    document = read_yaml(path, Problems())
    if document is None:
        return
    own, others = ({item.name for item in fields(kind)} for kind in (Finetune, Experiment))
    if document.data.keys() & (own - others) and not document.data.keys() & (others - own):
        raise UserError(
            f"{path} is for fine-tuning a classifier: give it to tools/evaluate.py MODEL "
            "--task finetune --config"
        )


def read_data(document: Document, base: DataConfig) -> DataConfig:
    """The data section: the model's own, with the changes of the file.

    Args:
        document: the file.
        base: how the model's inputs are made, with the source of the clips.

    Raises:
        ConfigError: every mistake in `data`, with its place.
        UserError: the model reads clips of their own length.
    """
    problems = Problems()
    given = document.get(("data",)) or {}
    if "source" in given:
        place = document.key_place(("data", "source"))
        problems.add(place, "the clips are named when fine-tuning starts, not by 'data.source'.")
    inputs = given.get("inputs") or {}
    for name in inputs if isinstance(inputs, dict) else ():
        if name not in base.inputs:
            place = document.key_place(("data", "inputs", name))
            problems.add(place, f"the encoder reads no '{name}'.", unknown=name, known=base.inputs)
    problems.raise_if_any()
    document.data["data"] = _merged(asdict(base), given)
    data = fill(DataConfig, document, ("data",), problems)
    problems.raise_if_any()
    assert data is not None
    if data.lengths is not None:
        raise UserError(
            "the encoder reads clips of their own length (data.lengths), and fine-tuning for "
            "classes needs windows of a fixed one: take another encoder"
        )
    return data


def _merged(base: Any, changes: Any) -> Any:
    if not isinstance(base, dict) or not isinstance(changes, dict):
        return changes
    return {**base, **{key: _merged(base.get(key), value) for key, value in changes.items()}}
