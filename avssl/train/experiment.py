"""The experiment file: what to train on what, stage after stage, and every mistake in it before any
data is read.

A stage names its graph by a path relative to the experiment file, or to the nearest folder above it
that has such a file: ``configs/paper/x.yaml`` may write ``graphs/y.yaml`` for
``configs/graphs/y.yaml``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from avssl.data.config import DataConfig
from avssl.graph.check import Report, check_spec, check_starts
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.schema import fill
from avssl.graph.source import Document, Place, Problems, find_file, read_yaml
from avssl.graph.spec import GraphSpec, Origin, Reference
from avssl.train.config import Experiment, ProbeConfig, StageConfig
from avssl.train.inputs import check_inputs, check_teacher_cache, check_towers


@dataclass(frozen=True)
class Instance:
    """One run of a stage: ``stage2.3`` is the third of ``stage2``, which has ``repeat: 3``.

    Attributes:
        name: of the instance.
        stage: key in ``stages``.
        config: that entry.
        args: arguments of its graph.
        spec: the graph, read and checked.
    """

    name: str
    stage: str
    config: StageConfig
    args: dict[str, Any]
    spec: GraphSpec


@dataclass(frozen=True)
class LoadedExperiment:
    """An experiment without mistakes, and its stage instances in the order they run."""

    config: Experiment
    instances: list[Instance]
    path: Path

    @property
    def graphs(self) -> dict[str, Path]:
        """The graph file of each stage."""
        return {item.stage: item.spec.files[0] for item in self.instances}

    @property
    def files(self) -> list[Path]:
        """All graph files, sub-graphs included."""
        return list(dict.fromkeys(file for item in self.instances for file in item.spec.files))

    def references(
        self, instance: Instance, weights: Callable[[str], Mapping[str, Any]]
    ) -> References:
        """What ``frozen_from`` and ``init_from`` of an instance may name; `weights` reads those of
        an instance."""
        before = self.instances[: self.instances.index(instance)]
        return _references(
            [(item.name, item.spec, functools.partial(weights, item.name)) for item in before],
            self.path.parent,
        )


def load_experiment(
    path: Path, overrides: Sequence[str] = (), *, shapes: bool = True
) -> LoadedExperiment:
    """Read an experiment file and the graphs of its stages.

    Args:
        path: the YAML file.
        overrides: ``key.sub=value`` from the command line.
        shapes: run the graphs on the meta device, which takes seconds; a run folder's were run
            before it was trained.

    Raises:
        ConfigError: every mistake in the file, the overrides and the graphs, each with
        ``file:line:col``.
    """
    problems = Problems()
    loaded = read_experiment(path, problems, overrides, shapes=shapes)
    problems.raise_if_any()
    assert loaded is not None
    return loaded


def read_experiment(
    path: Path, problems: Problems, overrides: Sequence[str] = (), *, shapes: bool = True
) -> LoadedExperiment | None:
    """As `load_experiment`, but what is wrong goes to `problems`."""
    document = read_yaml(path, problems)
    if document is None:
        return None
    before = dict(_mapping(document.get(("stages",))))
    document.override(overrides, problems)
    _leave_out(document, before, overrides, problems)
    config = fill(Experiment, document, (), problems)
    instances = _read_stages(document, config, problems, shapes=shapes)
    data = fill(DataConfig, document, ("data",), Problems())  # mistakes inside were found above
    probe = fill(ProbeConfig, document, ("probe",), Problems())
    specs = {item.stage: item.spec for item in instances}
    check_inputs(document, data, probe, specs, problems)
    if shapes and data is not None and probe is not None and not problems.found:
        check_towers(document, data, probe, specs, problems)
        for item in instances:
            if item.config.teacher_cache is not None:
                check_teacher_cache(document, data, item.stage, item.spec, problems)
    return LoadedExperiment(config, instances, path) if config is not None else None


def _names(document: Document, stage: Any, section: str) -> set[str]:
    """The names in a section of the graph of a stage; `stage` is its entry in the file."""
    file = _graph_file(document, _mapping(stage).get("graph"))
    graph = None if file is None else read_yaml(file, Problems())
    return set() if graph is None else set(_mapping(graph.get((section,))))


def _leave_out(
    document: Document, before: Mapping[str, Any], overrides: Sequence[str], problems: Problems
) -> None:
    """Take out the stages that overrides have made null, and what the file has for them alone:
    arguments, probed towers and inputs.

    before: the stages of the file without the overrides.
    """
    stages = _mapping(document.get(("stages",)))
    left = [name for name, stage in stages.items() if stage is None]
    for name in left:
        if name not in before:
            problems.add(
                document.key_place(("stages", name)),
                f"there is no stage '{name}' to leave out.",
                unknown=name,
                known=before,
            )
        del stages[name]
    if not left:
        return

    def alone(section: str) -> set[str]:
        """Names in that section of graphs that are left out, and of no other."""
        kept, gone = (
            set().union(*(_names(document, stage, section) for stage in some))
            for some in (stages.values(), [before.get(name) for name in left])
        )
        return gone - kept

    modules, towers = alone("modules"), _mapping(document.get(("probe", "towers")))
    probed = {name for name, tower in towers.items() if str(tower).partition(".")[0] not in modules}
    given = [f"{item.partition('=')[0]}." for item in overrides]
    for path, names in (
        (("args",), alone("args")),
        (("probe", "towers"), set(towers) - probed),
        (("data", "inputs"), alone("inputs") - probed),
    ):
        section = _mapping(document.get(path))
        for name in names & set(section):
            own = ".".join((*path, name, ""))
            if not any(item.startswith(own) or own.startswith(item) for item in given):
                del section[name]


def _read_stages(
    document: Document, config: Experiment | None, problems: Problems, *, shapes: bool
) -> list[Instance]:
    """Read and check the graph of every instance, also where the experiment file has mistakes."""
    instances: list[Instance] = []
    run: list[tuple[Any, ...]] = []  # what was run on the meta device
    sound = True  # the dry run waits until a stage and those before it are right in themselves
    known = True  # every stage so far could be read, so that references to them can be looked up
    entries = _mapping(document.get(("stages",)))
    declared = {name: _names(document, stage, "args") for name, stage in entries.items()}
    somewhere = set().union(*declared.values())
    for stage, value in entries.items():
        named, place = (
            _mapping(value).get("graph"),
            document.value_place(("stages", stage, "graph")),
        )
        file = _graph_file(document, named)
        if file is None:
            if isinstance(named, str):
                _no_graph(document, named, place, problems)
            known = sound = False
            continue
        own = _mapping(_mapping(value).get("args"))
        shared = {
            name: argument
            for name, argument in _mapping(document.get(("args",))).items()
            if name in declared[stage] or name not in somewhere  # of other stages alone
        }
        where = functools.partial(_argument_place, document, stage, own)
        settings = config.stages[stage] if config else StageConfig(str(file), steps=1)
        for number in range(settings.repeat):
            specs = [(item.name, item.spec, None) for item in instances]
            before = _references(specs, _folder(document))
            references = before if known else None
            args = {**shared, **own}
            found = len(problems.found)
            spec = read_graph(
                file,
                problems,
                args=args,
                args_places=where,
                references=references,
                place=place,
                starts=shapes,
            )
            if spec is None:
                known = sound = False
                break
            connect(spec, problems)
            sound = sound and len(problems.found) == found
            starts = [(m.source, m.options.init_from) for m in spec.modules.values()]
            structure = (*spec.structure, starts)
            if shapes and sound and structure not in run:  # repetitions are built alike
                report = check_spec(spec, problems)
                if report.graph is not None:
                    check_starts(report.graph, references, problems)
                if config is not None and len(problems.found) == found:
                    _check_alone(document, config.data, stage, report, problems)
                run.append(structure)
            instance = stage if number == 0 else f"{stage}.{number + 1}"
            instances.append(Instance(instance, stage, settings, args, spec))
    return instances


def _check_alone(
    document: Document, data: DataConfig, stage: str, report: Report, problems: Problems
) -> None:
    """Report a batch of one clip where the graph needs more."""
    if data.batch != 1 or data.lengths is not None or report.graph is None:
        return
    from avssl.graph.dryrun import needs_company

    why = needs_company(report.graph)
    if why is not None:
        problems.add(
            document.value_place(("data", "batch")),
            f"stage '{stage}' needs at least 2 clips in a batch, found data.batch: 1; {why}.",
        )


def _graph_file(document: Document, name: Any) -> Path | None:
    """The file that a stage names, if it is there."""
    return find_file(name, _folder(document)) if isinstance(name, str) else None


def _no_graph(document: Document, name: str, place: Place, problems: Problems) -> None:
    folder = _folder(document).resolve()
    near = {
        Path(name).with_name(other.name).as_posix()
        for above in (folder, *folder.parents)
        for other in (above / name).parent.glob("*.yaml")
    }
    problems.add(
        place,
        f"there is no graph file '{name}' beside this file or in a folder above it.",
        unknown=name,
        known=near,
    )


def _folder(document: Document) -> Path:
    return document.path.parent if document.path else Path.cwd()


def _argument_place(document: Document, stage: str, own: Mapping[str, Any], name: str) -> Place:
    return document.key_place(("stages", stage, "args", name) if name in own else ("args", name))


def _references(
    stages: Sequence[tuple[str, GraphSpec, Callable[[], Mapping[str, Any]] | None]],
    folder: Path,
) -> References:
    found = References({name: Reference(spec, weights) for name, spec, weights in stages}, folder)
    for name, _, _ in stages:  # a repeated stage is named by its last repetition
        found[name.partition(".")[0]] = found[name]
    if stages:
        found["previous"] = found[stages[-1][0]]
    return found


class References(dict[Any, Reference]):
    """Stages that stand before one, by name and as ``previous``; the path of a run folder, or of a
    checkpoint of another project, is looked up on disk: from the working folder, else from the
    experiment's `folder` and those above it."""

    def __init__(self, stages: Mapping[str, Reference], folder: Path) -> None:
        super().__init__(stages)
        self.folder = folder

    def get(self, name: Any, default: Any = None) -> Any:
        """The stage, the last stage of the run folder `name`, the stage whose checkpoints are in
        the folder `name` of a run folder, or the checkpoint `name`; of an Origin, its checkpoint,
        read as it says."""
        if name not in self:
            checkpoint = Path(name.file if isinstance(name, Origin) else name)
            stage = checkpoint.name if checkpoint.parent.name == "checkpoints" else None
            folder = checkpoint if stage is None else checkpoint.parent.parent
            run = None if isinstance(name, Origin) else self._file(folder / "config.yaml")
            if run is not None:
                from avssl.train.weights import run_reference

                self[name] = run_reference(run.parent, stage)
            elif (file := self._checkpoint(checkpoint)) is not None:
                from avssl.weights.initial import foreign_reference

                how = name if isinstance(name, Origin) else Origin(str(name), "")
                self[name] = foreign_reference(
                    file, layout=how.layout, allow=how.allow, sizes=how.sizes
                )
        return super().get(name, default)

    def _checkpoint(self, path: Path) -> Path | None:
        """A file, or the folder of a Hugging Face model."""
        config = self._file(path / "config.json")
        return config.parent if config is not None else self._file(path)

    def _file(self, path: Path) -> Path | None:
        path = path.expanduser()
        return path if path.is_file() else find_file(str(path), self.folder)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
