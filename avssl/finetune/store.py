"""A fine-tuned classifier on disk: a folder that `avssl.load` reads, with the head beside.

Letters: B batch, C classes.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from avssl.data.config import DataConfig
from avssl.encoders.encoder import Encoder
from avssl.encoders.load import Encoders, load_encoders
from avssl.encoders.model import ENCODER_WEIGHTS
from avssl.errors import UserError
from avssl.export import encoder_folder
from avssl.export.source import Source
from avssl.finetune.config import Finetune
from avssl.finetune.model import HEAD, Classifier, Head
from avssl.graph.graph import SubGraph
from avssl.train.checkpoint import write_tensors

RESULTS = "results.json"


def write_classifier(
    classifier: Classifier, av: Encoders, folder: Path, *, config: Finetune, data: DataConfig
) -> None:
    """Write encoder.yaml, the graph files, and the weights with those of the head.

    Args:
        classifier: what was trained.
        av: the model it began from.
        folder: where to.
        config: names the encoder.
        data: how its inputs were made.
    """
    graph = classifier.graph.cpu()
    parts = {name: part for name, part in graph.named_children() if isinstance(part, SubGraph)}
    spec = av.model.spec
    modules, inputs = dict(spec.modules), dict(spec.inputs)
    for name, part in parts.items():
        modules[name] = dataclasses.replace(
            modules[name], kind="graph", graph=part.spec, source=None, momentum=None
        )
    for name, tower in classifier.towers.items():
        shape = parts[name].spec.inputs[tower.port].shape
        inputs[tower.input] = dataclasses.replace(inputs[tower.input], shape=shape)
    model = dataclasses.replace(
        av.model,
        name=config.name,
        spec=dataclasses.replace(spec, modules=modules, inputs=inputs),
        data=dataclasses.replace(av.model.data, window=data.window, inputs=data.inputs),
        weights=lambda name: dict(parts[name].state_dict()),
        description={**av.description, "fine-tuned": config.name},
    )
    encoder_folder.write(Source(folder, Encoders(model, "cpu"), config.encoder), folder)
    write_tensors(graph.state_dict(), folder / ENCODER_WEIGHTS)  # the head as well


@dataclasses.dataclass(frozen=True)
class FineTuned:
    """A fine-tuned classifier.

    Attributes:
        encoder: takes what every encoder takes: files, waveforms, pictures.
        head: from its features [B, D] to logits [B, C].
        classes: names.
        several: a clip may be of several classes.
    """

    encoder: Encoder
    head: Head
    classes: list[str]
    several: bool

    @torch.no_grad()
    def __call__(self, x: Any, **given: Any) -> Tensor:
        """Probabilities of the classes, [B, C]; arguments as of the encoder."""
        logits = self.head(self.encoder(x, **given))
        return logits.sigmoid() if self.several else logits.softmax(1)


def load_classifier(folder: str | os.PathLike[str]) -> FineTuned:
    """Read what `write_classifier` wrote in a part's folder, such as runs/finetune/seed0-fold1.

    Raises:
        UserError: it is no such folder.
    """
    folder = Path(folder)
    try:
        about = json.loads((folder / RESULTS).read_text(encoding="utf-8"))
        name, several, classes = about["encoder"], about["several"], list(about["per_class"])
    except (OSError, ValueError, KeyError, TypeError):
        raise UserError(
            f"{folder} holds no finished fine-tuning: give the folder of a seed and fold, such as "
            "seed0-fold1"
        ) from None
    encoder = load_encoders(folder)[name]
    stored = load_file(folder / ENCODER_WEIGHTS)
    weights = {
        key[len(HEAD) + 1 :]: tensor for key, tensor in stored.items() if key.startswith(f"{HEAD}.")
    }
    count, width = weights["linear.weight"].shape
    head = Head(width, count, std=0.0)
    head.load_state_dict(weights)
    return FineTuned(encoder, head.eval(), classes, several)
