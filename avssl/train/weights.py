"""Weights of finished stages and of other run folders: what teachers are promoted from."""

from __future__ import annotations

from typing import TYPE_CHECKING

from safetensors import safe_open
from safetensors.torch import load_file

from avssl.errors import ConfigError, UserError
from avssl.graph.spec import Reference
from avssl.train.checkpoint import MODEL, intact, steps_saved, usable

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor


def stage_weights(run: Path, stage: str) -> dict[str, Tensor]:
    """The weights of a stage instance's newest intact checkpoint, keyed as its graph's state dict.

    Raises:
        UserError: there is no intact checkpoint.
    """
    return load_file(intact(run, stage)[0] / MODEL)


def stage_shapes(run: Path, stage: str) -> dict[str, tuple[int, ...]]:
    """The shapes of what `stage_weights` reads, from the head of the file.

    Raises:
        UserError: there is no intact checkpoint.
    """
    with safe_open(usable(run, stage)[0] / MODEL, framework="pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in file.keys()}


def run_reference(run: Path, stage: str | None = None) -> Reference:
    """A stage of a run folder, for ``frozen_from: "runs/x/checkpoints/stage1:module"``; the last
    one for ``"runs/x:module"``.

    Raises:
        UserError: the run has no such stage, it was not trained yet, or its files cannot be read.
    """
    from avssl.train.experiment import load_experiment

    try:
        experiment = load_experiment(run / "config.yaml", shapes=False)
    except ConfigError as error:  # its first sentence, which others end
        raise UserError(error.messages[0].removesuffix(".")) from None
    instances = experiment.instances
    found = [item for item in instances if stage in (item.name, None)]
    if not found:
        known = ", ".join(item.name for item in instances)
        raise UserError(f"the run {run} has no stage {stage!r}: its stages are {known}")
    last = found[-1]
    if not steps_saved(run / "checkpoints" / last.name):
        raise UserError(
            f"the run {run} holds no checkpoint of its stage {last.name}: train it first"
        )
    return Reference(
        last.spec,
        lambda: stage_weights(run, last.name),
        shapes=lambda: stage_shapes(run, last.name),
        recipes=experiment.config.data.inputs,
    )
