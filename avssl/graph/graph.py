"""The Graph: a plain ``nn.Module`` whose forward is a loop over the calls of a graph file."""

import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.overrides import TorchFunctionMode

from avssl.errors import UserError
from avssl.graph.calls import Call, execute_located, only_output, plan
from avssl.graph.names import connect
from avssl.graph.reader import read_graph
from avssl.graph.source import Document, Place, Problems
from avssl.graph.spec import (
    GraphSpec,
    Input,
    Module,
    ModuleOptions,
    Node,
    Origin,
    Reference,
    Statistics,
    look_up,
    split_reference,
)
from avssl.schedules import Schedule


@dataclass(frozen=True)
class Loss:
    """One loss of a graph: its weight over the stage."""

    weight: Schedule


@dataclass(frozen=True)
class Teacher:
    """An EMA teacher: the module it follows, how slowly, and how its BatchNorms normalise."""

    source: str
    momentum: Schedule
    statistics: Statistics


MISFIT = "does not fit the weights of"
Value = TypeVar("Value")


class SubGraph(nn.Module):
    """A sub-graph as a module: its inputs are ports, its ``outputs`` are named tensors."""

    def __init__(self, spec: GraphSpec, problems: Problems, path: str) -> None:
        super().__init__()
        self.spec = spec
        self.outputs = tuple(spec.outputs)
        _add_modules(self, spec, problems, path)
        self.results = {name: source.key for name, source in spec.outputs.items()}
        self._plans: dict[tuple[str, ...], tuple[Call, ...]] = {}

    def forward(
        self, read: tuple[str, ...] | None = None, /, **inputs: Tensor | None
    ) -> Tensor | dict[str, Tensor]:
        """Run what the outputs that are read need; inputs that are left out must be optional ones.

        Args:
            read: outputs, by default all.

        Raises:
            UserError: an input is not one of the sub-graph's, or a required one is missing.
        """
        for name in inputs:
            if name not in self.spec.inputs:
                known = ", ".join(self.spec.inputs)
                raise UserError(f"'{self.spec.name}' has no input '{name}'; it has {known}")
        for name, item in self.spec.inputs.items():
            if not item.optional and inputs.get(name) is None:
                raise UserError(f"'{self.spec.name}' needs the input '{name}'")
        values: dict[str, Any] = {f"batch.{name}": inputs.get(name) for name in self.spec.inputs}
        read = self.outputs if read is None else read
        execute_located(self.calls(read), self._modules, values)
        if len(self.results) == 1:
            return values[self.results[self.outputs[0]]]
        return {name: values[self.results[name]] for name in read}

    def calls(self, read: tuple[str, ...]) -> tuple[Call, ...]:
        """What runs for these outputs."""
        if read not in self._plans:
            self._plans[read] = plan(self.spec, [self.results[name] for name in read])
        return self._plans[read]


class Graph(nn.Module):
    """A trainable graph: named modules, calls that connect them, losses.

    Example::

        graph = Graph.from_file("configs/graphs/mavil_stage1.yaml", args={"width": 192})
        losses = graph({"audio": mel, "video": clip})          # {"audio_raw": ..., "inter": ...}
        pooled = graph(batch, ["a1.pooled"])["a1.pooled"]      # runs only what this needs

    State-dict keys are ``<module>.<inner>``. Modules that never train (frozen, teachers) stay in
    eval mode. A loss whose weight is 0 throughout is inactive: it is not run, nor is what only it
    reads, and modules that only it would train do not train.

    Attributes:
        teacher_dtype: bfloat16 or float32 for teachers that were read (``frozen_from``); None: they
            run like the rest.
    """

    def __init__(self, spec: GraphSpec, problems: Problems) -> None:
        """Build on the meta device; ``from_file`` and ``from_dict`` are the ways for users."""
        super().__init__()
        self.spec = spec
        _add_modules(self, spec, problems, "")
        self.losses = {n: Loss(_weight(loss)) for n, loss in spec.losses.items() if loss.active}
        self.calls = plan(spec, list(self.losses))
        self._loss_keys = {name: f"{name}.{only_output(spec, name)}" for name in self.losses}
        self._plans: dict[
            tuple[tuple[str, ...], tuple[str, ...]], tuple[tuple[Call, ...], dict[str, str]]
        ] = {}
        self.log = spec.log
        self.teacher_dtype: torch.dtype | None = None
        self.notes: list[str] = []  # which weights were taken, and what was done to them
        self.teachers = {
            name: Teacher(str(module.source), module.momentum, module.statistics)
            for name, module in spec.modules.items()
            if module.kind == "ema" and module.momentum is not None
        }
        self.options: dict[str, ModuleOptions] = {
            name: module.options for name, module in spec.modules.items()
        }
        used = {call.module for call in self.calls}
        self.frozen: set[str] = {
            name
            for name, module in spec.modules.items()
            if module.is_teacher
            or module.options.freeze
            or (name not in used and bool(spec.losses))
        }
        for name in self.frozen & set(self._modules):
            self.get_submodule(name).requires_grad_(False)

    @classmethod
    def from_file(
        cls,
        path: str | Path,
        *,
        args: Mapping[str, Any] | None = None,
        references: Mapping[str, Reference] | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> "Graph":
        """Read, build and initialise the graph of a YAML file.

        Args:
            path: the file.
            args: values for its ``args`` section.
            references: earlier stages that ``frozen_from`` and ``init_from`` name.
            seed: each module is initialised from this and its own name, so that adding a module
                leaves the others as they were.
            device: where the parameters live.

        Raises:
            ConfigError: everything wrong with the file, each with ``file:line:col``.
        """
        problems = Problems()
        place = Place("argument")
        spec = read_graph(
            Path(path),
            problems,
            args=args,
            references={} if references is None else references,
            place=place,
        )
        return cls._finish(spec, problems, references, seed, device)

    @classmethod
    def from_dict(
        cls,
        structure: Mapping[str, Any],
        *,
        args: Mapping[str, Any] | None = None,
        references: Mapping[str, Reference] | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> "Graph":
        """The same from a Python dictionary of the same structure; sub-graph files are looked up
        from the working folder upwards. Arguments and errors as ``from_file``."""
        problems = Problems()
        document = Document(dict(structure), "graph")
        spec = read_graph(
            document, problems, args=args, references={} if references is None else references
        )
        return cls._finish(spec, problems, references, seed, device)

    @classmethod
    def from_spec(
        cls,
        spec: GraphSpec,
        *,
        references: Mapping[str, Reference] | None = None,
        seed: int = 0,
        device: str | torch.device = "cpu",
    ) -> "Graph":
        """Build and initialise a graph that was read and checked before."""
        graph = cls._build(spec, device)
        graph.init_weights(seed, references=references)
        return graph

    @classmethod
    def from_weights(cls, spec: GraphSpec, weights: Mapping[str, Tensor]) -> "Graph":
        """Build a graph that was read and checked before with the weights it was trained to, which
        become its parameters. They hold its teachers, too: nothing that the file refers to is read.

        Raises:
            UserError: tensors are missing, unknown or of another shape.
        """
        problems = Problems()
        graph = cls(spec, problems)
        problems.raise_if_any()
        complaint = f"the graph '{spec.name}' does not fit its weights"
        _load(graph, weights, complaint, assign=True)
        return graph

    @classmethod
    def lone(cls, spec: GraphSpec, name: str) -> nn.Module:
        """One module of a graph that was read and checked before, on the meta device."""
        alone = replace(
            spec, modules={name: spec.modules[name]}, nodes={}, losses={}, outputs={}, log={}
        )
        problems = Problems()
        graph = cls(alone, problems)
        problems.raise_if_any()
        return graph.get_submodule(name)

    @classmethod
    def _build(cls, spec: GraphSpec, device: str | torch.device) -> "Graph":
        problems = Problems()
        graph = cls(spec, problems)
        problems.raise_if_any()
        graph.materialise(device)
        return graph

    @classmethod
    def _finish(
        cls,
        spec: GraphSpec | None,
        problems: Problems,
        references: Mapping[str, Reference] | None,
        seed: int,
        device: str | torch.device,
    ) -> "Graph":
        if spec is not None:
            connect(spec, problems)
        problems.raise_if_any()
        assert spec is not None
        return cls.from_spec(spec, references=references, seed=seed, device=device)

    @property
    def inputs(self) -> dict[str, Input]:
        """What a batch must hold."""
        return self.spec.inputs

    def forward(
        self,
        batch: Mapping[str, Tensor],
        outputs: Sequence[str] | None = None,
        given: Mapping[str, Tensor] | None = None,
    ) -> dict[str, Tensor]:
        """Compute losses, or the outputs asked for.

        Args:
            batch: one tensor for each input, shaped as ``inputs`` says.
            outputs: loss names and ``node.port`` keys; by default every active loss.
            given: values of ``node.port`` that are known already; what only they need is not run.

        Returns:
            The unweighted losses, each a scalar, or the outputs, by the names asked for.
        """
        given = {} if given is None else given
        if outputs is None and not given:
            calls, keys = self.calls, self._loss_keys
        else:
            asked = tuple(self.losses if outputs is None else outputs), tuple(given)
            if asked not in self._plans:
                keys = {name: self._key(name) for name in asked[0]}
                self._plans[asked] = (plan(self.spec, list(keys.values()), asked[1]), keys)
            calls, keys = self._plans[asked]
        for name, item in self.spec.inputs.items():
            if not item.optional and name not in batch:
                raise UserError(f"the batch has no '{name}', which '{self.spec.name}' reads")
        values: dict[str, Any] = {f"batch.{name}": batch.get(name) for name in self.spec.inputs}
        values |= given
        execute_located(calls, self._modules, values, self.teacher_dtype)
        return {name: values[key] for name, key in keys.items()}

    def _key(self, name: str) -> str:
        node, _, port = name.partition(".")
        if node == "batch" and port in self.spec.inputs:
            return name
        if node not in self.spec.calls:
            raise UserError(f"the graph has no node '{node}'; it has {', '.join(self.spec.calls)}")
        return f"{node}.{port or only_output(self.spec, node)}"

    def train(self, mode: bool = True) -> "Graph":
        """Switch to training mode; frozen modules and teachers stay in eval mode, except for the
        BatchNorms of teachers that normalise by the statistics of the batch."""
        super().train(mode)
        for name in self.frozen:
            module = self.get_submodule(name).eval()
            if mode and name in self.teachers and self.teachers[name].statistics == "batch":
                for part in module.modules():
                    if isinstance(part, _BatchNorm):
                        part.train()
        return self

    def materialise(self, device: str | torch.device) -> None:
        """Move from the meta device: real memory, filled with NaN until it is initialised."""
        self.to_empty(device=device)
        for tensor in [*self.parameters(), *self.buffers()]:
            if tensor.is_floating_point():
                tensor.data.fill_(float("nan"))

    @torch.no_grad()
    def init_weights(self, seed: int, *, references: Mapping[str, Reference] | None = None) -> None:
        """Fill all parameters and buffers.

        Every block is seeded by ``seed`` and its path. Modules with ``init_from`` or
        ``frozen_from`` then take the weights of their reference, strictly; EMA teachers start as
        copies of their source.
        """
        self._init_blocks(seed)
        for name, module_spec in self.spec.modules.items():
            reference = module_spec.options.init_from
            if module_spec.kind == "frozen":
                reference = module_spec.source
            if reference is not None:
                self._load_reference(name, reference, references)
        for name, teacher in self.teachers.items():
            source = self.get_submodule(teacher.source)
            self.get_submodule(name).load_state_dict(source.state_dict())
        for key, tensor in self.state_dict().items():
            if tensor.is_floating_point() and tensor.isnan().any():
                raise AssertionError(f"'{key}' was not initialised by its block's init_weights")

    @torch.no_grad()
    def _init_blocks(self, seed: int) -> None:
        for path, module in self.named_modules():
            if isinstance(module, (Graph, SubGraph)) or not hasattr(module, "init_weights"):
                continue
            if any(
                not isinstance(self.get_submodule(parent), (Graph, SubGraph))
                for parent in _parents(path)
            ):
                continue  # inside another block, which initialises it
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(zlib.crc32(f"{seed}/{path}".encode()))
                module.init_weights()

    def _load_reference(
        self, name: str, reference: str | Origin, references: Mapping[str, Reference] | None
    ) -> None:
        stage, _, module = split_reference(reference)
        found = look_up(references, stage) if references is not None else None
        if found is None or found.weights is None:
            raise UserError(
                f"module '{name}' reads its weights from '{reference}', which is not available "
                "here; train it with the experiment file that defines that stage"
            )
        if found.start is not None:
            weights, notes = found.start(module, self.get_submodule(name))
            self.notes += [f"{name}: {note}" for note in notes]
        else:
            weights = below(module, found.weights())
            self.notes.append(f"{name}: {len(weights)} tensors are those of {reference}")
        complaint = f"module '{name}' {MISFIT} '{reference}'"
        _load(self.get_submodule(name), weights, complaint)


def _load(
    module: nn.Module, weights: Mapping[str, Tensor], complaint: str, *, assign: bool = False
) -> None:
    """Load weights, strictly; with `assign` they take the place of the module's tensors."""
    must_fit(module, {key: tuple(tensor.shape) for key, tensor in weights.items()}, complaint)
    module.load_state_dict(weights, assign=assign)


def below(module: str, values: Mapping[str, Value]) -> dict[str, Value]:
    """The entries of a state dict that are a module's, under the names that it has for them."""
    prefix = f"{module}."
    return {
        key.removeprefix(prefix): value for key, value in values.items() if key.startswith(prefix)
    }


def must_fit(module: nn.Module, shapes: Mapping[str, tuple[int, ...]], complaint: str) -> None:
    """Raise UserError where a module does not hold tensors of just these names and shapes."""
    own = {key: tuple(tensor.shape) for key, tensor in module.state_dict().items()}
    wrong = sorted(set(shapes) ^ set(own)) + [
        key for key in own if key in shapes and own[key] != shapes[key]
    ]
    if wrong:
        here, there = (
            list(known[wrong[0]]) if wrong[0] in known else "missing" for known in (own, shapes)
        )
        raise UserError(
            f"{complaint}: {len(wrong)} of {len(own)} tensors differ, first '{wrong[0]}' ({here} "
            f"in the module, {there} in the weights): take a module of the same kind, and its sizes"
        )


_TAKEN = (
    "losses",
    "calls",
    "log",
    "teachers",
    "options",
    "frozen",
    "results",
    "outputs",
    "notes",
    "teacher_dtype",
)


def _add_modules(parent: nn.Module, spec: GraphSpec, problems: Problems, path: str) -> None:
    """Build every module of ``spec`` on the meta device; what a block refuses is reported."""
    for name, module in spec.modules.items():
        inner = f"{path}{name}"
        if hasattr(parent, name) or name in _TAKEN:
            problems.add(module.place, f"'{name}' cannot name a module here; choose another name.")
        elif module.graph is not None:
            parent.add_module(name, SubGraph(module.graph, problems, f"{inner}."))
        elif module.block is not None:
            built = _build(spec, module, problems, inner)
            if built is not None:
                parent.add_module(name, built)


def _build(spec: GraphSpec, module: Module, problems: Problems, path: str) -> nn.Module | None:
    assert module.block is not None
    try:
        with torch.device("meta"), _NoInit():
            return spec.catalogue.block(module.block)(**module.arguments)
    except (ValueError, RuntimeError, UserError) as error:
        problems.add(module.place, f"block '{module.block}' of '{path}': {error}.")
    return None


class _NoInit(TorchFunctionMode):
    """Skips ``torch.nn.init`` while layers are made: ``init_weights`` fills them later."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def _weight(loss: Node) -> Schedule:
    assert loss.weight is not None
    return loss.weight


def _parents(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:end]) for end in range(1, len(parts))]
