"""Building a classifier from the encoder of a model, with its weights or fresh ones."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from avssl.blocks.stems import SwapAxes
from avssl.data.config import FbankConfig, FramesConfig
from avssl.encoders.encoder import Encoder
from avssl.encoders.layers import prefix_tokens
from avssl.encoders.roles import Fusion, Roles
from avssl.errors import UserError
from avssl.finetune.config import Finetune, PatchMasks
from avssl.finetune.model import HEAD, KEEP, Classifier, Head, TowerCall, masked
from avssl.graph.graph import Graph, SubGraph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Place, Problems
from avssl.graph.spec import GraphSpec, Module, ModuleOptions
from avssl.ops.patches import patch_grid
from avssl.train.optimizer import transformer_blocks


def build_classifier(
    encoder: Encoder,
    roles: Roles,
    inputs: Mapping[str, FbankConfig | FramesConfig],
    *,
    config: Finetune,
    classes: int,
    seed: int,
) -> Classifier:
    """The classifier of a fine-tuning, with the encoder's weights or, from scratch, fresh ones.

    Args:
        encoder: whose towers are taken; it stays as it is.
        roles: of its model: how towers and fusions are called.
        inputs: how the inputs are made; they may be longer than the encoder's own where `args`
            changes the towers to fit.
        config: `args`, `from_scratch`, `train` and `mask` count.
        classes: C.
        seed: of fresh weights.

    Raises:
        UserError: arguments that a tower does not have, weights that do not fit the changed
            towers, inputs of another size, masks that a tower cannot take.
    """
    parts: dict[str, SubGraph] = {name: _sub_graph(x) for name, x in encoder.towers.items()}
    fusion = None
    if encoder.fusion is not None:
        names = list(encoder.towers)
        fusion = next(item for item in roles.fusions.values() if item.towers == names)
        parts[fusion.module] = _sub_graph(encoder.fusion)
    unknown = [name for name in config.args if name not in parts]
    if unknown:
        raise UserError(f"args changes {unknown[0]!r}, but {encoder.name} has {', '.join(parts)}")
    graph = _build(parts, fusion, config, seed)
    if not config.from_scratch:
        for name, part in parts.items():
            _take(graph.get_submodule(name), part, name)
    towers = {}
    for name in encoder.towers:
        port, read = next(iter(roles.towers[name].ports.items()))
        towers[name] = _tower(_sub_graph(graph.get_submodule(name)), name, port, read, inputs)
    classifier = Classifier(graph, towers, fusion)
    _check_masks(classifier, config.mask)
    width = _leave_unread(classifier.eval(), inputs)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        graph.add_module(HEAD, Head(width, classes, std=config.train.head_std))
    graph.options[HEAD] = ModuleOptions(lr_scale=config.train.head_lr_scale)
    return classifier


def _leave_unread(classifier: Classifier, inputs: Mapping[str, FbankConfig | FramesConfig]) -> int:
    """Do not train what no feature depends on, such as a last block that the fusion goes past.
    Returns the width of the features."""
    zeros = {name: torch.zeros(1, *recipe.shape) for name, recipe in inputs.items()}
    with torch.enable_grad():
        features = classifier.features(zeros)
        features.sum().backward()
    for parameter in classifier.parameters():
        parameter.requires_grad_(parameter.grad is not None)
        parameter.grad = None
    return features.shape[1]


def _build(
    parts: Mapping[str, SubGraph], fusion: Fusion | None, config: Finetune, seed: int
) -> Graph:
    """The towers and the fusion anew, with changed arguments and fresh weights."""
    decay = config.train.layer_decay
    options = ModuleOptions(layer_decay=decay)
    # towers stand below the fusion, so they learn slower by one step for each of its blocks
    below = decay ** _depth(parts[fusion.module]) if fusion is not None else 1.0
    place, modules = Place(config.name), {}
    for name, part in parts.items():
        changes = {"drop_path": config.train.drop_path, **config.args.get(name, {})}
        if not config.train.drop_path and "drop_path" not in part.spec.arguments:
            del changes["drop_path"]
        spec = _changed(part.spec, name, changes)
        top = fusion is not None and name == fusion.module
        own = options if top else dataclasses.replace(options, lr_scale=below)
        modules[name] = Module(name, "graph", place, graph=spec, options=own)
    catalogue = next(iter(parts.values())).spec.catalogue
    return Graph.from_spec(
        GraphSpec(config.name, None, place, catalogue, modules=modules), seed=seed
    )


def _changed(spec: GraphSpec, name: str, changes: Mapping[str, Any]) -> GraphSpec:
    """The graph file of a tower read again, with other arguments."""
    assert spec.path is not None
    problems = Problems()
    found = read_graph(
        spec.path,
        problems,
        args={**spec.arguments, **changes},
        args_places=lambda key: Place(
            "train.drop_path" if key == "drop_path" else f"args.{name}.{key}"
        ),
        catalogue=spec.catalogue,
        inner=True,
    )
    if found is not None:
        connect(found, problems)
    problems.raise_if_any()
    assert found is not None
    return found


def _take(module: nn.Module, source: nn.Module, name: str) -> None:
    """Load the weights of `source`; fixed tables of another size stay as they were built."""
    own, given = module.state_dict(), source.state_dict()
    fixed = {key for key, _ in module.named_buffers()}
    wrong = [
        key
        for key in own
        if key not in given or (own[key].shape != given[key].shape and key not in fixed)
    ] + [key for key in given if key not in own]
    if wrong:
        raise UserError(
            f"the weights of {name!r} do not fit the tower that args.{name} makes: {len(wrong)} "
            f"tensors differ, the first is {wrong[0]!r}; change only what leaves the weights their "
            "shapes, or set from_scratch=true"
        )
    module.load_state_dict(
        {
            key: tensor if own[key].shape == tensor.shape else own[key]
            for key, tensor in given.items()
        }
    )


def _tower(
    module: SubGraph,
    name: str,
    port: str,
    read: str,
    inputs: Mapping[str, FbankConfig | FramesConfig],
) -> TowerCall:
    """How to call a tower, which must take the inputs as they are made."""
    shape, wanted = inputs[read].shape, module.spec.inputs[port].shape[1:]
    if len(shape) != len(wanted) or any(
        isinstance(b, int) and a != b for a, b in zip(shape, wanted, strict=True)
    ):
        raise UserError(
            f"data.inputs.{read} makes [B, {', '.join(map(str, shape))}], but {name!r} takes "
            f"[B, {', '.join(map(str, wanted))}]: change one of them, the tower with args.{name}"
        )
    prefix = prefix_tokens(module)
    turned = any(isinstance(child, SwapAxes) for child in module.modules())
    size, grid = shape[:0:-1] if turned else shape[1:], None
    for stem in module.modules():
        if isinstance(stem, (nn.Conv2d, nn.Conv3d)):
            apart = stem.stride == stem.kernel_size
            with contextlib.suppress(ValueError):  # a stem that is no grid of patches
                grid = patch_grid(size, stem.kernel_size, None if apart else stem.stride)
            break
    return TowerCall(port, read, prefix, grid, turned)


def _check_masks(classifier: Classifier, config: PatchMasks) -> None:
    for name, tower in classifier.towers.items():
        spec = _sub_graph(classifier.graph.get_submodule(name)).spec
        if tower.grid is not None and not masked(tower.grid, config):
            continue
        if config != PatchMasks() and (tower.grid is None or KEEP not in spec.inputs):
            raise UserError(
                f"mask hides patches, but the tower {name!r} cannot leave some out: its graph has "
                f"no port '{KEEP}', or its stem no grid; set the shares of mask to 0"
            )


def _depth(module: nn.Module) -> int:
    return sum(len(blocks) for _, blocks in transformer_blocks(module))


def _sub_graph(module: nn.Module) -> SubGraph:
    assert isinstance(module, SubGraph)
    return module
