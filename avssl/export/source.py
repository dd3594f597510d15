"""What is exported: one encoder, the model it belongs to, and where that was read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from avssl.data.batches import zero_inputs
from avssl.data.length_config import REAL
from avssl.encoders.encoder import Encoder
from avssl.encoders.load import Encoders, load_encoders
from avssl.encoders.roles import Fusion
from avssl.errors import UserError


@dataclass(frozen=True)
class Source:
    """An encoder to export.

    Attributes:
        path: what was loaded. encoders: all of it. module: the name that was asked for.
    """

    path: Path
    encoders: Encoders
    module: str

    @property
    def encoder(self) -> Encoder:
        """The encoder itself, on the CPU and in eval mode."""
        return self.encoders[self.module]

    def built_anew(self) -> Encoder:
        """The same encoder once more, to be changed."""
        return Encoders(self.encoders.model, "cpu")[self.module]

    @property
    def towers(self) -> dict[str, str]:
        """Tower -> the input of the batch it reads."""
        roles = self.encoders.roles.towers
        return {name: roles[name].input for name in self.encoder.towers}

    @property
    def fusion(self) -> Fusion | None:
        """The module that joins the towers, if one does."""
        if self.encoder.fusion is None:
            return None
        fusions = self.encoders.roles.fusions
        named = [item for item in fusions.values() if item.module == self.module]
        trained = [item for item in fusions.values() if not item.teacher]
        return [*named, *trained][0]

    @property
    def teacher(self) -> bool:
        """Whether any of its towers was never trained itself."""
        return any(self.encoders.roles.towers[name].teacher for name in self.towers)

    @property
    def description(self) -> dict[str, Any]:
        """Where the weights come from, as plain values and without the folders of this machine."""
        plain = {
            key: value
            for key, value in self.encoders.description.items()
            if isinstance(value, (str, int, float, bool))
        }
        data = plain.get("data")
        if "stage" in plain and isinstance(data, str) and not data.startswith("corpus:"):
            plain["data"] = Path(data).name  # a run's own folder
        return plain

    @property
    def foreign(self) -> bool:
        """Whether another project trained the weights."""
        return any(key in self.description for key in ("layout", "source", "licence"))

    def shape(self, name: str) -> tuple[int | str, ...]:
        """Of an input, without the batch: [1, T, F] or [3, T, H, W]; "T" where clips keep their own
        length."""
        return self.encoder.inputs[name].shape

    def draw(self, batch: int, *, seed: int = 0) -> dict[str, Tensor]:
        """Random inputs of the right shapes, for comparing what was written with the encoder.

        Of clips that keep their own length, each is a frame shorter than the one before.
        """
        random = torch.Generator().manual_seed(seed)
        one = zero_inputs(self.encoder.inputs)  # [1, ...]
        drawn = {
            name: torch.randn(batch, *one[name].shape[1:], generator=random)
            for name in self.encoder.inputs
        }
        if REAL in one:
            time = len(one[REAL])
            rows = [row * time + torch.arange(max(1, time - row)) for row in range(batch)]
            drawn[REAL] = torch.cat(rows)  # [V]
        return drawn

    def figures(self) -> dict[str, Any]:
        """What the run's results.json says of its stage; empty where there is none."""
        stage = self.encoders.description.get("stage")
        try:
            found = json.loads((self.path / "results.json").read_text(encoding="utf-8"))
            return dict(found[stage])
        except (OSError, ValueError, KeyError, TypeError):
            return {}


def open_encoder(
    path: str | os.PathLike[str],
    *,
    module: str,
    stage: str | None = None,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
) -> Source:
    """Load what is to be exported; arguments and errors as of `avssl.load`."""
    encoders = load_encoders(path, stage=stage, layout=layout, allow=allow, sizes=sizes)
    source = Source(Path(path).expanduser(), encoders, module)
    if source.encoder.dtype != torch.float32:
        raise UserError(f"{path} holds {source.encoder.dtype} weights: export needs float32")
    return source


def difference(found: Tensor, wanted: Tensor) -> float:
    """Largest absolute difference, over the largest value where that is above 1.

    Raises:
        UserError: the shapes differ.
    """
    if found.shape != wanted.shape:
        raise UserError(
            f"the export gives {list(found.shape)} where the encoder gives {list(wanted.shape)}"
        )
    if not wanted.isfinite().all():
        raise UserError("the encoder gives features that are not finite: train again")
    scale = max(1.0, float(wanted.abs().max()))
    return float((found - wanted).abs().max()) / scale
