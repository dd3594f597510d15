"""Supervised fine-tuning of an encoder as a classifier."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from avssl.finetune.store import FineTuned


def run(
    model: str | os.PathLike[str],
    *,
    source: str,
    config: str | os.PathLike[str],
    overrides: Sequence[str] = (),
    stage: str | None = None,
    layout: str | None = None,
    allow: Sequence[str] = (),
) -> dict[str, Any]:
    """Fine-tune an encoder of `model` on labelled clips, and measure it on held-out ones.

        avssl.finetune.run("runs/mavil", source="esc10", config="configs/finetune/esc.yaml",
                           overrides=["fold=all", "seeds=[0,1,2]"])

    Every fold and seed goes to a folder of its own inside `run` of the file; what is finished
    there is not done again, and what was stopped goes on.

    Args:
        model, stage, layout, allow: as of `avssl.load`.
        source: labelled clips: a folder, a manifest or corpus:NAME.
        config: a file such as configs/finetune/laptop.yaml (`avssl.finetune.config`).
        overrides: ``key.sub=value``.

    Returns:
        What results.json holds: the figures of each part, and mean and deviation over seeds.

    Raises:
        UserError: what is wrong with the arguments, the file, the model or the clips.
        KeyboardInterrupt: it was asked to end; the same call goes on.
    """
    from avssl.finetune.job import finetune

    return finetune(
        model,
        source=source,
        path=Path(config),
        overrides=overrides,
        stage=stage,
        layout=layout,
        allow=allow,
    )


def load(folder: str | os.PathLike[str]) -> FineTuned:
    """The classifier of one seed and fold, in eval mode, for any clip.

        classify = avssl.finetune.load("runs/finetune/seed0-fold1")
        classify(["dog.wav", "rain.ogg"])  # probabilities [2, C] of classify.classes

    Its encoder alone is what `avssl.load` gives of the same folder.

    Raises:
        UserError: the folder holds no finished fine-tuning.
    """
    from avssl.finetune.store import load_classifier

    return load_classifier(folder)
