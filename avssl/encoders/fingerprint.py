"""What tells encoders apart: a hash of weights, structure and preparation."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from avssl.encoders.encoder import Encoder


def fingerprint(encoder: Encoder) -> str:
    """16 hexadecimal digits: equal for encoders that give equal features for equal clips."""
    modules = {**encoder.towers, **({"fusion": encoder.fusion} if encoder.fusion else {})}
    lengths = encoder.data.lengths
    made = [
        encoder.data.window if lengths is None else ["longest", lengths.longest],
        {name: asdict(recipe) for name, recipe in encoder.inputs.items()},
        {name: _structure(module) for name, module in modules.items()},
    ]
    digest = hashlib.sha256(json.dumps(made, sort_keys=True).encode())
    for key, tensor in encoder.state_dict().items():
        digest.update(key.encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _structure(module: nn.Module) -> Any:
    """What a tower is built of, as far as its weights do not tell: blocks and their arguments."""
    spec = getattr(module, "spec", None)
    if spec is None:
        return None
    return {
        name: [item.block, item.arguments, _structure(module.get_submodule(name))]
        for name, item in spec.modules.items()
    }
