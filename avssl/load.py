"""The trained graph of a run folder, ready to use: encoders for other code."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from avssl.errors import UserError

if TYPE_CHECKING:
    from avssl.graph.graph import Graph


def load_graph(run: str | os.PathLike[str], *, stage: str | None = None) -> Graph:
    """Build the graph of a stage of a run and load its newest checkpoint; in eval mode, on the CPU.

    run: the run folder. stage: an instance such as "stage1" or "stage2.2"; the last one without.
    A tower is called by its name, with inputs prepared as the run's `data.inputs` say:

        graph = load_graph("runs/mavil")
        audio = graph.get_submodule("audio")(x=fbank)  # {"tokens": [B, N, D], "pooled": [B, D]}

    Raises UserError when the folder is no run, has no such stage, or the stage no checkpoint.
    """
    from avssl.graph.graph import Graph
    from avssl.train.experiment import load_experiment
    from avssl.train.weights import stage_weights

    folder = Path(run)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"{folder} is not a run folder: it has no config.yaml")
    experiment = load_experiment(folder / "config.yaml")
    instances = {instance.name: instance for instance in experiment.instances}
    name = stage or list(instances)[-1]
    if name not in instances:
        raise UserError(f"{folder} has no stage {name!r}: its stages are {', '.join(instances)}")
    return Graph.from_weights(instances[name].spec, stage_weights(folder, name)).eval()
