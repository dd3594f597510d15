"""A trained model as it lies on disk: its graph, how its inputs are made, and its weights."""

from __future__ import annotations

import dataclasses
import functools
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from avssl.data.config import DataConfig
from avssl.errors import UserError
from avssl.graph.graph import Graph
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.schema import fill
from avssl.graph.source import Problems, find_file, read_yaml
from avssl.graph.spec import GraphSpec
from avssl.train.checkpoint import MODEL, intact
from avssl.train.experiment import load_experiment
from avssl.train.run_folder import data_of

ENCODER_FILE = "encoder.yaml"
ENCODER_WEIGHTS = "model.safetensors"

Weights = Callable[[str], dict[str, Tensor]]  # module -> its tensors, keyed as its state dict


@dataclass(frozen=True)
class Model:
    """What encoders are made of.

    name: of the model. spec: its graph. data: window and inputs. weights: reads one module's
    tensors. description: what cards say of it.
    """

    name: str
    spec: GraphSpec
    data: DataConfig
    weights: Weights
    description: dict[str, Any]

    def build(self, modules: Sequence[str]) -> Graph:
        """These modules alone, with their weights, on the CPU.

        Raises UserError when the weights do not fit.
        """
        chosen = {name: self.spec.modules[name] for name in modules}
        spec = dataclasses.replace(
            self.spec, modules=chosen, nodes={}, losses={}, outputs={}, log={}
        )
        return Graph.from_weights(spec, self.state(modules))

    def state(self, modules: Iterable[str]) -> dict[str, Tensor]:
        """Tensors of modules, keyed as the graph's state dict."""
        return {
            f"{name}.{key}": tensor
            for name in modules
            for key, tensor in self.weights(name).items()
        }


@dataclass(frozen=True)
class EncoderFile:
    """encoder.yaml: what stands beside exported weights, and describes foreign ones.

    Attributes:
        name: of the model.
        graph: a graph file: inputs, modules, and nodes that call them without masks.
        args: its arguments.
        data: window and inputs.
        description: where the weights come from; free text by key.
    """

    name: str
    graph: str
    data: DataConfig
    args: dict[str, Any] = field(default_factory=dict)
    description: dict[str, Any] = field(default_factory=dict)


def open_model(
    path: str | os.PathLike[str],
    *,
    stage: str | None = None,
    layout: str | None = None,
    allow: Sequence[str] = (),
    sizes: Mapping[str, Any] | None = None,
) -> Model:
    """A run folder, an exported folder or a foreign checkpoint.

    Raises UserError when the path is none of these, or an argument does not belong to its kind.
    """
    try:
        path = Path(path).expanduser()
        run, exported = (path / "config.yaml").is_file(), (path / ENCODER_FILE).is_file()
    except (TypeError, OSError, ValueError, RuntimeError) as error:
        raise UserError(f"{path!r:.80} is no path of a model: {error!s:.80}") from None
    if (run or exported) and (layout is not None or allow or sizes):
        raise UserError(
            f"{path} is a folder of avssl: layout, allow and sizes belong to checkpoints of other "
            "projects"
        )
    if run:
        return _run(path, stage)
    _refuse_checkpoints(path)
    if stage is not None:
        raise UserError(f"{path} is not a run folder, and only these have stages: leave stage out")
    if exported:
        return _exported(path)
    if not path.exists():
        raise UserError(f"{path} does not exist: give a run folder, an exported folder or a file")
    return _foreign(path, layout, allow, sizes)


def _refuse_checkpoints(path: Path) -> None:
    """Raise UserError for the checkpoints of a stage, or one of them, in place of the run folder
    and the stage."""
    path = Path(os.path.abspath(path))
    for folder in (path, path.parent):
        run = folder.parent.parent
        if folder.parent.name == "checkpoints" and (run / "config.yaml").is_file():
            raise UserError(
                f"{path} is inside a run folder: give {run} --stage {folder.name}, in Python "
                f'avssl.load("{run}", stage="{folder.name}"), for the newest checkpoint of that '
                "stage"
            )


def load_graph(run: str | os.PathLike[str], *, stage: str | None = None) -> Graph:
    """The whole graph of a stage of a run with its newest checkpoint, in eval mode, on the CPU.

    For its decoders, teachers and losses; `avssl.load` gives the encoders alone.

    run: the run folder. stage: an instance such as "stage1" or "stage2.2"; the last one without.

    Raises UserError when the folder is no run, has no such stage, or the stage no checkpoint.
    """
    if not (Path(run) / "config.yaml").is_file():
        raise UserError(f"{run} is not a run folder: it has no config.yaml")
    model = _run(Path(run), stage)
    return Graph.from_weights(model.spec, model.state(model.spec.modules)).eval()


def _run(folder: Path, stage: str | None) -> Model:
    experiment = load_experiment(folder / "config.yaml", shapes=False)
    instances = {instance.name: instance for instance in experiment.instances}
    name = list(instances)[-1] if stage is None else stage
    if name not in instances:
        raise UserError(f"{folder} has no stage {name!r}: its stages are {', '.join(instances)}")
    path, progress = intact(folder, name)
    config = experiment.config
    data = data_of(folder, config)
    description = {
        "model": config.name,
        "stage": name,
        "steps": progress.step,
        "seed": config.seed,
        "data": data.source,
    }
    return Model(
        config.name,
        instances[name].spec,
        data,
        functools.partial(_stored, path / MODEL),
        description,
    )


def _exported(folder: Path) -> Model:
    file, spec = read_encoder_file(folder / ENCODER_FILE)
    weights = folder / ENCODER_WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder} has no {ENCODER_WEIGHTS}: the export is not whole")
    return Model(file.name, spec, file.data, functools.partial(_stored, weights), file.description)


def _foreign(
    path: Path, layout: str | None, allow: Sequence[str], sizes: Mapping[str, Any] | None
) -> Model:
    from avssl.weights.foreign import read_foreign

    foreign = read_foreign(path, layout=layout, allow=allow, sizes=sizes)
    name = foreign.encoder.stem
    print("\n".join(foreign.report), file=sys.stderr, flush=True)
    return Model(
        name,
        foreign.spec,
        foreign.data,
        lambda module: dict(foreign.weights[module]),
        {"file": path.name, "layout": foreign.layout, **foreign.description},
    )


def read_encoder_file(
    path: Path, *, args: Mapping[str, Any] | None = None
) -> tuple[EncoderFile, GraphSpec]:
    """Read an encoder.yaml and its graph.

    args: values over those of the file.

    Raises ConfigError: everything wrong with the two, each with file:line:col.
    """
    problems = Problems()
    document = read_yaml(path, problems)
    problems.raise_if_any()
    assert document is not None
    file = fill(EncoderFile, document, (), problems)
    problems.raise_if_any()
    assert file is not None
    place = document.value_place(("graph",))
    graph = find_file(file.graph, path.parent)
    if graph is None:
        problems.add(place, f"there is no graph file '{file.graph}'.")
        problems.raise_if_any()
    assert graph is not None
    spec = read_graph(graph, problems, args={**file.args, **(args or {})}, place=place)
    problems.raise_if_any()
    assert spec is not None
    connect(spec, problems)
    problems.raise_if_any()
    return file, spec


def _stored(file: Path, module: str) -> dict[str, Tensor]:
    """The tensors of one module; nothing else is read."""
    prefix = f"{module}."
    try:
        with safe_open(file, framework="pt") as stored:
            keys = [key for key in stored.keys() if key.startswith(prefix)]
            return {key[len(prefix) :]: stored.get_tensor(key) for key in keys}
    except SafetensorError as error:
        raise UserError(f"{file} is damaged ({error}): export or train again") from None
