"""The same encoders before any training, to see what training is worth."""

from __future__ import annotations

import dataclasses

from torch import Tensor

from avssl.encoders.load import Encoders
from avssl.graph.graph import Graph
from avssl.graph.spec import ModuleOptions


def untrained(encoders: Encoders, *, seed: int) -> Encoders:
    """Encoders of the same architecture and preparation with freshly initialised weights.

    Each module is initialised as training does, from the seed and its name; no weights that the
    graph refers to are read.
    """
    model = encoders.model

    def weights(name: str) -> dict[str, Tensor]:
        module = model.spec.modules[name]
        fresh = dataclasses.replace(
            module,
            kind="block" if module.graph is None else "graph",
            source=None,
            momentum=None,
            options=ModuleOptions(),
        )
        spec = dataclasses.replace(
            model.spec, modules={name: fresh}, nodes={}, losses={}, outputs={}, log={}
        )
        graph = Graph.from_spec(spec, seed=seed)
        return dict(graph.get_submodule(name).state_dict())

    return Encoders(dataclasses.replace(model, weights=weights), encoders.device)
