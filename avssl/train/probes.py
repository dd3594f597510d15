"""Probes of a run: what the towers know every N steps (val split), pictures, and the final table
(test split)."""

from __future__ import annotations

import dataclasses
import functools
import os
import platform
from typing import TYPE_CHECKING

import torch
from torch import nn

from avssl.data.config import FramesConfig
from avssl.eval.curves import curves_picture
from avssl.eval.features import evaluating
from avssl.eval.pictures import (
    reconstruct,
    similarity_picture,
    spectrogram_picture,
    video_picture,
)
from avssl.eval.probes import Evaluation, final_evaluation, probe
from avssl.eval.report import Card, StageSummary, print_tables, write_card, write_results
from avssl.files import metrics_rows
from avssl.graph.graph import Graph
from avssl.graph.source import Problems
from avssl.train import checkpoint
from avssl.train.run_folder import portable
from avssl.train.weights import stage_weights

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from avssl.graph.spec import Log
    from avssl.train.experiment import Instance, LoadedExperiment
    from avssl.train.loop import Session

DRAWN = 8  # clips of val whose reconstructions are drawn, or as many of them as a picture holds


def splits(experiment: LoadedExperiment) -> list[str]:
    """Splits that probes and pictures of a run read, besides train."""
    config = experiment.config.probe
    drawn = any(log.picture for item in experiment.instances for log in item.spec.log.values())
    online = bool(config.towers) or (config.pictures and drawn)
    return ["val"] * online + ["test"] * bool(config.towers and config.final)


def online(session: Session, graph: Graph, stage: str, step: int) -> dict[str, float]:
    """Measure the towers on the val split, and draw pictures.

    Under FSDP every rank takes part, else only rank 0.
    """
    config, world = session.experiment.config.probe, session.world
    own = {
        n: tower for n, tower in config.towers.items() if tower.partition(".")[0] in graph.options
    }
    config = dataclasses.replace(config, towers=own)  # other stages may have others
    if not (world.main or world.mode == "fsdp"):
        return {}
    figures: dict[str, float] = {}
    if config.towers:
        loader = session.clips.split("val", clips=config.clips, inputs=config.towers)
        figures = probe(graph, config, {"val": loader})
    if config.pictures:
        _draw_reconstructions(session, graph, session.folder.pictures / stage / f"step-{step:06d}")
        if world.main and step:
            curves_picture(session.folder.pictures / "curves.png", session.folder.metrics)
    return figures


def _draw_reconstructions(session: Session, graph: Graph, folder: Path) -> None:
    """Draw every picture of the graph's `log` section from the first val clips."""
    entries = {name: entry for name, entry in graph.log.items() if entry.picture is not None}
    if not entries:
        return
    first = next(iter(session.clips.split("val", clips=DRAWN, inputs=graph.inputs)))
    batch = {
        name: first[name][:DRAWN].to(session.world.device) for name in graph.inputs if name in first
    }
    keys = sorted({source.key for entry in entries.values() for source in entry.sources.values()})
    torch.manual_seed(0)
    # eagerly: another number of clips would make a compiled step general, and slower
    eager = torch.compiler.set_stance("force_eager")
    with torch.no_grad(), evaluating(graph), eager:
        values = graph(batch, keys)
    if session.world.main:
        for name, entry in entries.items():
            _draw(
                session,
                entry,
                values,
                folder / f"{name}.png",
                title=f"{name}, {folder.parent.name} {folder.name}",
            )


def _draw(
    session: Session, entry: Log, values: dict[str, Tensor], path: Path, *, title: str
) -> None:
    source = {port: values[place.key] for port, place in entry.sources.items()}
    masked, shown = reconstruct(
        source["input"],
        source["prediction"].float(),
        source["mask"],
        patch=entry.patch,
        normalize=entry.normalize,
    )
    if source["input"].ndim == 4:
        spectrogram_picture(path, source["input"], masked, shown, title=title)
        return
    recipe = session.experiment.config.data.inputs[entry.sources["input"].port or ""]
    assert isinstance(recipe, FramesConfig)
    video_picture(
        path, source["input"], masked, shown, title=title, mean=recipe.mean, std=recipe.std
    )


def final_table(session: Session) -> None:
    """Measure the untrained model and the end of every stage on the test split; write results,
    pictures and card."""
    config, instances = session.experiment.config, session.experiment.instances
    results: dict[str, Evaluation] = {}
    if config.probe.towers and config.probe.final:
        print("measuring the untrained model and each stage on the test split", flush=True)
        models = _untrained(session)
        models |= {item.name: _towers(session, item, trained=True) for item in instances}
        inputs = config.probe.towers
        loaders = {split: session.clips.split(split, inputs=inputs) for split in ("train", "test")}
        found = final_evaluation(models, config.probe, loaders)
        results = {name: evaluation for name, (evaluation, _) in found.items()}
        write_results(session.folder.path, results)
        print_tables(results)
        features = found[instances[-1].name][1]
        pair = list(features.vectors.values())
        if config.probe.pictures and len(pair) == 2 and pair[0].shape == pair[1].shape:
            similarity_picture(
                session.folder.pictures / "similarity.png", features, title=config.name
            )
    if config.probe.pictures:
        curves_picture(session.folder.pictures / "curves.png", session.folder.metrics)
    write_card(session.folder.path, _card(session, results))


def _untrained(session: Session) -> dict[str, nn.ModuleDict]:
    """Each probed module as the first stage that has it starts it; where a later stage has another
    under the same name, such as a student smaller than its teacher, as that stage starts it, too.
    """
    first: dict[str, nn.Module] = {}
    others: dict[str, nn.ModuleDict] = {}
    for instance in session.experiment.instances:
        towers = dict(_towers(session, instance, trained=False).named_children())
        if any(name in first and _shapes(first[name]) != _shapes(towers[name]) for name in towers):
            others[f"untrained {instance.name}"] = nn.ModuleDict(towers)
        first = {**towers, **first}
    return {"untrained": nn.ModuleDict(first), **others}


def _shapes(module: nn.Module) -> dict[str, torch.Size]:
    return {name: value.shape for name, value in module.state_dict().items()}


def _towers(session: Session, instance: Instance, *, trained: bool) -> nn.ModuleDict:
    """The probed modules of a stage instance, before training or after it."""
    from avssl.train.loop import stage_seed

    experiment = session.experiment
    if trained:
        state = stage_weights(session.folder.path, instance.name)
        graph = Graph.from_weights(instance.spec, state)
    else:
        weights = functools.cache(functools.partial(stage_weights, session.folder.path))
        references = experiment.references(instance, weights)
        seed = stage_seed(experiment.config.seed, instance.name)
        graph = Graph.from_spec(instance.spec, references=references, seed=seed)
    names = {source.partition(".")[0] for source in experiment.config.probe.towers.values()}
    towers = {name: module for name, module in graph.named_children() if name in names}
    return nn.ModuleDict(towers).to(session.world.device)


def _card(session: Session, results: dict[str, Evaluation]) -> Card:
    experiment = session.experiment
    config = experiment.config
    rows = metrics_rows(session.folder.metrics)
    stages = []
    for instance in experiment.instances:
        _, progress, _ = checkpoint.newest(session.folder.checkpoints(instance.name))
        assert progress is not None
        graph = Graph(instance.spec, Problems())  # on the meta device
        trained = sum(p.numel() for p in graph.parameters() if p.requires_grad)
        clips = round(progress.step * session.clips.clips_per_step)
        stages.append(
            StageSummary(
                instance.name,
                instance.config.graph,
                progress.step,
                clips,
                progress.seconds,
                trained,
            )
        )
    return Card(
        name=config.name,
        config=portable(config, {}),
        data={
            **session.clips.description,
            "unreadable in training, replaced": sum(
                len(row.get("unreadable_clips", [])) for row in rows
            ),
        },
        stages=stages,
        machine=_machine(session),
        versions={"torch": torch.__version__, "python": platform.python_version()},
        results=results,
    )


def _machine(session: Session) -> str:
    world = session.world
    if world.device.type == "cuda":
        return f"{world.size} x {torch.cuda.get_device_name(world.device)}"
    return f"{os.cpu_count()} CPU cores" + (f", {world.size} processes" if world.size > 1 else "")
