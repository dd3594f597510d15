"""`teacher_cache`: what frozen teachers make of each clip, computed in the first epoch, read from
disk in later ones and by other runs with the same teachers, data and crop.

Only the values that losses read from teachers are kept (`avssl.graph.targets`), and only where a
clip's inputs are the same in every epoch.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from avssl.data.config import DataConfig, FbankConfig, FramesConfig
from avssl.errors import UserError
from avssl.graph.calls import plan
from avssl.graph.targets import settled_targets, teachers_of
from avssl.train import checkpoint
from avssl.train.precision import in_bf16, teacher_dtype
from avssl.train.run_folder import differences
from avssl.train.target_store import TargetStore, check_place, read_record

if TYPE_CHECKING:
    from avssl.graph import Graph
    from avssl.graph.spec import GraphSpec, Module
    from avssl.train.clips import Clips
    from avssl.train.experiment import Instance, LoadedExperiment
    from avssl.train.parallel import World
    from avssl.train.run_folder import RunFolder
    from avssl.train.step import Recipe


class TeacherCache:
    """The targets of a stage, from disk where they are there.

    Args:
        store: where they are.
        graph: the graph as it trains.
        recipe: its precision.
        world: this process; with FSDP all processes ask their teachers, or none does.
        clips: rows of the manifest that hold the train clips; number k has row k of the store.
    """

    def __init__(
        self, store: TargetStore, graph: Graph, recipe: Recipe, world: World, clips: list[int]
    ) -> None:
        self.store, self.graph, self.recipe, self.world = store, graph, recipe, world
        self.keys = store.keys
        self._rows = {clip: row for row, clip in enumerate(clips)}

    @property
    def warning(self) -> str | None:
        """What one that may only be read does not have; None where nothing is to be told."""
        if self.store.read_only is None:
            return None
        lacking, clips = self.store.lacking
        if not lacking:
            return None
        return (
            f"the teacher cache {self.store.folder} cannot be written ({self.store.read_only}): "
            f"{lacking} of {clips} clips are not in it, and teachers run for them in each epoch"
        )

    @torch.no_grad()
    def targets(self, batch: Mapping[str, Tensor], clips: Tensor) -> dict[str, Tensor]:
        """The targets of a batch; those that are not on disk are computed and written.

        Args:
            batch: inputs of the graph, [B, ...], on the device.
            clips: int64 [B], rows of the manifest.

        Returns:
            ``node.port`` -> float32 [B, ...], on the device.
        """
        rows = [self._rows[clip] for clip in clips.tolist()]
        found, there = self.store.read(rows)
        sharded = self.world.mode == "fsdp"
        lack = not bool(there.all())
        if self.world.most(int(lack)) if sharded else lack:
            asked = range(len(rows)) if sharded else (~there).nonzero().flatten().tolist()
            index = torch.tensor(asked, device=self.world.device)
            part = {name: value.index_select(0, index) for name, value in batch.items()}
            with self.recipe.autocast(self.world.device):
                made = self.graph(part, self.keys)
            written = self.store.write([rows[place] for place in asked], made)
            for key, value in written.items():
                found[key][list(asked)] = value
        return {key: value.to(self.world.device) for key, value in found.items()}


def open_cache(
    experiment: LoadedExperiment,
    instance: Instance,
    graph: Graph,
    recipe: Recipe,
    clips: Clips,
    world: World,
) -> TeacherCache | None:
    """The cache of a stage that has one, made where it is not there.

    Args:
        graph: on the device, with its weights; sharded or not.

    Raises:
        UserError: the one on disk was made from something else or is damaged, or none can be made.
    """
    if instance.config.teacher_cache is None:
        return None
    shapes = settled_targets(instance.spec)
    teachers = {
        name: _digest(graph.get_submodule(name)) for name in teachers_of(instance.spec, shapes)
    }
    folder = _folder(instance)
    rows, precision = clips.train_rows, instance.config.teacher_cache.precision

    def make() -> None:
        made_of = _made_of(experiment, instance.spec, shapes, clips, world.device)
        made_of["teachers"] = teachers
        _compare(folder, made_of, precision)
        if read_record(folder) is None:
            TargetStore.make(
                folder, rows=len(rows), shapes=shapes, precision=precision, made_of=made_of
            )
        TargetStore(folder).close()

    world.first(make)
    return TeacherCache(TargetStore(folder), graph, recipe, world, rows)


def check_caches(
    experiment: LoadedExperiment, run: RunFolder, clips: Clips, device: torch.device
) -> None:
    """Look at the caches of stages that are not finished before the first stage is trained:
    whether they can be made or opened, and fit the experiment, apart from the weights of teachers,
    which may come from one of the stages.

    Raises:
        UserError: one was made from something else, is damaged, or cannot be made or read.
    """
    for instance in experiment.instances:
        cache = instance.config.teacher_cache
        if cache is None:
            continue
        _, progress, _ = checkpoint.newest(run.checkpoints(instance.name))
        if progress is not None and progress.finished:
            continue
        folder = _folder(instance)
        _refuse_checkpoints(folder)
        if read_record(folder) is None:
            check_place(folder)
        else:
            shapes = settled_targets(instance.spec)
            made_of = _made_of(experiment, instance.spec, shapes, clips, device)
            _compare(folder, made_of, cache.precision)
            TargetStore(folder).close()


def random_inputs(data: DataConfig, spec: GraphSpec) -> dict[str, str]:
    """What makes the inputs of teachers others in each epoch: key of the experiment file -> the
    value that does not.

    Raises:
        UserError: the graph has no targets that could be kept.
    """
    found = {} if data.window_position == "middle" else {"data.window_position": "middle"}
    for name in _inputs(spec, settled_targets(spec)):
        recipe = data.inputs.get(name)
        if isinstance(recipe, FramesConfig | FbankConfig):
            found |= {f"data.inputs.{name}.{key}": off for key, off in recipe.draws.items()}
    return found


def _folder(instance: Instance) -> Path:
    assert instance.config.teacher_cache is not None
    return Path(os.path.expanduser(instance.config.teacher_cache.folder)) / instance.name


def _refuse_checkpoints(folder: Path) -> None:
    """Keep caches out of the folders that runs keep their checkpoints in.

    Raises:
        UserError: it is one of these, or lies below.
    """
    whole = Path(os.path.realpath(folder))
    for above in (whole, *whole.parents):
        if above.name == "checkpoints" and os.path.isfile(above.parent / "config.yaml"):
            raise UserError(
                f"the teacher cache {folder} would lie among the checkpoints of the run "
                f"{above.parent}: give another teacher_cache.folder"
            )


def _compare(folder: Path, made_of: Mapping[str, Any], precision: str) -> None:
    record = read_record(folder)
    if record is None:
        return
    earlier = {**record["made_of"], "teacher_cache": {"precision": record.get("precision")}}
    now = {"teachers": earlier.get("teachers"), **json.loads(json.dumps(made_of))}
    now["teacher_cache"] = {"precision": precision}
    different = list(differences(earlier, now))
    if different:
        more = f", and {len(different) - 3} more" if len(different) > 3 else ""
        raise UserError(
            f"the teacher cache {folder} was made from something else: "
            f"{'; '.join(different[:3])}{more}. Give another teacher_cache.folder, or remove this "
            "one."
        )


def _inputs(spec: GraphSpec, targets: Mapping[str, object]) -> list[str]:
    """The inputs that targets are made from."""
    keys = {key for call in plan(spec, list(targets)) for _, key in call.inputs}
    return [name for name in spec.inputs if f"batch.{name}" in keys]


def _made_of(
    experiment: LoadedExperiment,
    spec: GraphSpec,
    targets: Mapping[str, object],
    clips: Clips,
    device: torch.device,
) -> dict[str, Any]:
    """What decides the targets, apart from the weights of teachers."""
    data = experiment.config.data
    own = teacher_dtype(experiment.config.train, device)
    lower = in_bf16(experiment.config.train, device) if own is None else own == torch.bfloat16
    return {
        "train": {"teacher_precision": "bf16" if lower else "fp32"},
        "data": {
            "train clips": clips.fingerprint,
            "bytes of their files": clips.file_sizes,
            "window": data.window,
            "inputs": {name: asdict(data.inputs[name]) for name in _inputs(spec, targets)},
        },
        "graph": {
            call.name: {
                "reads": dict(call.inputs),
                "gives": [port for port, _ in call.outputs],
                **_structure(spec.modules[call.module]),
            }
            for call in plan(spec, list(targets))
        },
    }


def _structure(module: Module) -> dict[str, Any]:
    """What a module is built of: its block and arguments, or the nodes of its graph."""
    if module.graph is None:
        return {"block": module.block, **module.arguments}
    inner = module.graph
    nodes = {
        node.name: {
            "reads": {port: source.key for port, source in node.inputs.items()},
            **_structure(inner.modules[node.call]),
        }
        for node in inner.nodes.values()
    }
    return {"nodes": nodes}


def _digest(module: nn.Module) -> str:
    """16 hexadecimal digits of a module's weights, which may be sharded."""
    digest = hashlib.sha256()
    for key, tensor in module.state_dict().items():
        whole = tensor.full_tensor() if hasattr(tensor, "full_tensor") else tensor
        digest.update(key.encode())
        digest.update(whole.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
