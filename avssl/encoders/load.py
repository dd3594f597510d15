"""`avssl.load`: the encoders of a model, each built when it is first asked for."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping, Sequence
from typing import Any

import torch

from avssl.data.config import DataConfig
from avssl.encoders.encoder import Encoder
from avssl.encoders.model import Model, open_model
from avssl.encoders.roles import Fusion, find_roles
from avssl.errors import UserError


def load_encoders(
    path: str | os.PathLike[str],
    *,
    stage: str | None = None,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
    device: torch.device | str = "cpu",
) -> Encoders:
    """Arguments and errors as of `avssl.load`."""
    try:
        if torch.empty(0, device=torch.device(device)).is_meta:
            raise RuntimeError("it holds no numbers")
    except (RuntimeError, AssertionError, TypeError) as error:
        reason = str(error).split("\n")[0]
        raise UserError(f"device={str(device)!r} cannot be used: {reason}") from None
    model = open_model(path, stage=stage, layout=layout, allow=allow, sizes=sizes)
    return Encoders(model, device)


class Encoders:
    """The encoders of a model, as attributes and by name: av.audio, av["audio"].

    Attributes:
        name: of the model. description: where it comes from.
        names: towers, and, where towers read different inputs, all of them together, named after
            the inputs: ["audio", "video", "audio_video"]. Teachers and the fusion's own name work,
            too.
    """

    def __init__(self, model: Model, device: torch.device | str) -> None:
        self.model, self.device = model, torch.device(device)
        self.name, self.description = model.name, model.description
        self.roles = find_roles(model.spec, model.data.inputs)
        towers = self.roles.towers
        if not towers:
            raise UserError(
                f"{model.name} has no encoder: no sub-graph reads an input of the batch alone"
            )
        trained = {name: role for name, role in towers.items() if not role.teacher} or towers
        joint = next((item for item in self.roles.fusions.values() if not item.teacher), None)
        members = joint.towers if joint else list(trained)
        inputs = [towers[name].input for name in members]
        self._parts: dict[str, tuple[list[str], Fusion | None]] = {
            name: ([name], None) for name in towers
        }
        self._parts |= {name: (item.towers, item) for name, item in self.roles.fusions.items()}
        self.names = list(trained)
        if len(set(inputs)) == len(inputs) > 1:
            self._parts.setdefault("_".join(inputs), (members, joint))
            self.names.append("_".join(inputs))
        self._built: dict[str, Encoder] = {}

    def __getitem__(self, name: str) -> Encoder:
        """Raises UserError when there is no such encoder."""
        if name not in self._parts:
            raise UserError(self._unknown(name))
        if name not in self._built:
            self._built[name] = self._build(name)
        return self._built[name]

    def __getattr__(self, name: str) -> Encoder:
        if name.startswith("_") or name not in self._parts:
            raise AttributeError(
                f"{type(self).__name__} has no attribute {name!r}"
                if name.startswith("_")
                else self._unknown(name)
            )
        return self[name]

    def __dir__(self) -> list[str]:
        return [*super().__dir__(), *self._parts]

    def __repr__(self) -> str:
        return f"Encoders({self.name!r}: {', '.join(self.names)})"

    def to(self, device: torch.device | str) -> Encoders:
        """Move the encoders that are built, and build the others there."""
        self.device = torch.device(device)
        for encoder in self._built.values():
            encoder.to(self.device)
        return self

    def data(self, source: str, names: Sequence[str] | None = None, **changes: Any) -> DataConfig:
        """The data section that prepares other clips as this model's own were.

        Args:
            source: corpus:NAME, a folder or a manifest.
            names: encoders whose inputs are wanted; by default all of `names`.
            changes: other values of the section, such as workers=2.
        """
        for name in names or ():
            if name not in self._parts:
                raise UserError(self._unknown(name))
        wanted = {
            self.roles.towers[tower].input
            for name in (names or self.names)
            for tower in self._parts[name][0]
        }
        inputs = {name: item for name, item in self.model.data.inputs.items() if name in wanted}
        # other clips, none held back, and labels of their own
        values = {"train_share": 1.0, "only": None, "label": None, **changes}
        return dataclasses.replace(self.model.data, source=source, inputs=inputs, **values)

    def _unknown(self, name: str) -> str:
        return f"{self.name} has no encoder {name!r}: it has {', '.join(self.names)}"

    def _build(self, name: str) -> Encoder:
        towers, fusion = self._parts[name]
        modules = [*towers, *([fusion.module] if fusion is not None else [])]
        graph = self.model.build(modules).to(self.device)
        return Encoder(
            name,
            self.data(self.model.data.source, [name]),
            {tower: graph.get_submodule(tower) for tower in towers},
            {tower: self.roles.towers[tower] for tower in towers},
            fusion=None if fusion is None else graph.get_submodule(fusion.module),
            fusion_role=fusion,
        )
