"""An encoder as a folder that `avssl.load` reads: encoder.yaml, graphs, plugins, weights."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
import yaml
from safetensors.torch import save_file

import avssl
from avssl.encoders.model import ENCODER_FILE, ENCODER_WEIGHTS
from avssl.export.source import Source, difference
from avssl.graph.source import Problems, read_yaml
from avssl.graph.spec import GraphSpec, Input

TOLERANCE = 0.0  # the same weights and the same code


def write(source: Source, folder: Path) -> None:
    """Write the encoder's modules alone; decoders, losses and masks stay behind."""
    encoders, encoder = source.encoders, source.encoder
    spec = encoders.model.spec
    assert spec.path is not None
    fusion = source.fusion
    modules = [*encoder.towers, *([fusion.module] if fusion else [])]
    inner = [spec.modules[name].graph for name in modules]
    needed = [file for graph in inner if graph is not None for file in graph.files]
    plugins, kept = _plugins(spec)
    places = _places([spec.path, *needed, *kept])
    for file, place in places.items():
        (folder / place).parent.mkdir(parents=True, exist_ok=True)
        if file != spec.path.resolve():
            shutil.copyfile(file, folder / place)
    graph = _graph(source, modules, places[spec.path.resolve()])
    if plugins:
        graph = {"plugins": plugins, **graph}
    place = places[spec.path.resolve()]
    head = f"# The encoder '{source.module}' of {encoders.name}, taken out of {spec.path.name}.\n"
    (folder / place).write_text(head + _yaml(graph), encoding="utf-8")
    data: dict[str, Any] = {
        "inputs": {name: asdict(recipe) for name, recipe in encoder.inputs.items()}
    }
    if encoder.data.lengths is None:
        data["window"] = encoder.data.window
    else:
        data["lengths"] = asdict(encoder.data.lengths)
    described = {
        "name": encoders.name,
        "graph": place.as_posix(),
        "args": {},
        "data": data,
        "description": source.description,
    }
    (folder / ENCODER_FILE).write_text(_yaml(described), encoding="utf-8")
    parts = dict(encoder.towers.items())
    if fusion is not None and encoder.fusion is not None:
        parts[fusion.module] = encoder.fusion
    weights = {
        f"{name}.{key}": tensor.detach().clone(memory_format=torch.contiguous_format)
        for name, part in parts.items()
        for key, tensor in part.state_dict().items()
    }
    save_file(weights, folder / ENCODER_WEIGHTS, metadata={"format": "pt"})


def check(source: Source, folder: Path) -> float:
    """Largest difference of features between the encoder and what the folder gives."""
    inputs = source.draw(2)
    loaded = avssl.load(folder, module=source.module)
    with torch.no_grad():
        return difference(loaded.encode(inputs), source.encoder.encode(inputs))


def _graph(source: Source, modules: list[str], place: Path) -> dict[str, Any]:
    """The outer graph: the towers on complete inputs, then their fusion."""
    roles, spec = source.encoders.roles, source.encoders.model.spec
    fusion = source.fusion
    nodes: dict[str, Any] = {}
    outputs: dict[str, str] = {}
    extra: dict[str, None] = {}  # inputs of optional ports
    for name in source.encoder.towers:
        role = roles.towers[name]
        reads = {port: f"batch.{read}" for port, read in {**role.ports, **role.extra}.items()}
        extra |= dict.fromkeys(role.extra.values())
        nodes[name] = {"call": name, "in": reads}
        outputs[name] = f"{name}.tokens"
    if fusion is not None:
        reads = {port: f"{tower}.{out}" for port, (tower, out) in fusion.ports.items()}
        reads |= {port: f"batch.{read}" for port, read in fusion.extra.items()}
        extra |= dict.fromkeys(fusion.extra.values())
        nodes[fusion.module] = {"call": fusion.module, "in": reads}
        outputs = {port: f"{fusion.module}.{port}" for port in fusion.ports}
    return {
        "inputs": {
            **{name: list(spec.inputs[name].shape) for name in source.towers.values()},
            **{name: _optional(spec.inputs[name]) for name in extra},
        },
        "modules": {name: _module(spec, name) for name in modules},
        "nodes": nodes,
        "outputs": outputs,
    }


def _optional(port: Input) -> dict[str, Any]:
    return {"shape": list(port.shape), "dtype": port.dtype, "optional": True}


def _module(spec: GraphSpec, name: str) -> dict[str, Any]:
    """A tower with the values its arguments had, whatever they were written as."""
    graph = spec.modules[name].graph
    assert graph is not None and graph.path is not None and spec.path is not None
    beside = os.path.relpath(graph.path.resolve(), spec.path.resolve().parent)
    return {"type": "graph", "file": Path(beside).as_posix(), **graph.arguments}


def _plugins(spec: GraphSpec) -> tuple[list[str], list[Path]]:
    """Plugins as the graph file lists them, and those that are files."""
    assert spec.path is not None
    document = read_yaml(spec.path, Problems())
    listed = (document.data.get("plugins") if document is not None else None) or []
    return listed, [spec.path.parent / name for name in listed if name.endswith(".py")]


def _places(files: Iterable[Path]) -> Mapping[Path, Path]:
    """Where each file goes, so that they find each other as before."""
    found = list(dict.fromkeys(path.resolve() for path in files))
    root = Path(os.path.commonpath([path.parent for path in found]))
    places = {path: path.relative_to(root) for path in found}
    if any(
        len(place.parts) == 1 for place in places.values()
    ):  # beside encoder.yaml they may clash
        places = {path: Path("graphs") / place for path, place in places.items()}
    return places


def _yaml(value: Any) -> str:
    return yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100)
