"""A graph as plain data: inputs, modules, nodes, losses, outputs, log."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal, get_args

from avssl.graph.source import Place
from avssl.registry import Catalogue, Signature
from avssl.schedules import Schedule

Statistics = Literal["running", "batch"]
Normalize = Literal["none", "patch", "channel"]  # of patches, see avssl.ops.patches
STATISTICS: tuple[Statistics, ...] = get_args(Statistics)


@dataclass(frozen=True)
class Input:
    """One tensor the graph takes; letters in ``shape`` are free dimensions, "B" is the batch."""

    shape: tuple[int | str, ...]
    dtype: str
    optional: bool
    place: Place


@dataclass(frozen=True)
class Origin:
    """A module of another project's checkpoint, and how the file is read where its names do not
    tell: ``{file: x.pth, module: image, layout: mvd}``.

    Attributes:
        file: the checkpoint. module: of the layout's encoder graph.
        layout, allow, sizes: as of ``avssl.load``.
    """

    file: str
    module: str
    layout: str | None = None
    allow: list[str] = field(default_factory=list, hash=False)
    sizes: dict[str, Any] = field(default_factory=dict, hash=False)

    def __str__(self) -> str:
        return f"{self.file}:{self.module}"


@dataclass(frozen=True)
class ModuleOptions:
    """How a module trains: not at all, at another learning rate, from which weights.

    layer_ends: what lies before the first transformer block and behind the last has layers of its
    "own" for layer_decay, or is "joined" to those blocks.
    """

    freeze: bool = False
    lr_scale: float = 1.0
    layer_decay: float | None = None
    layer_ends: Literal["own", "joined"] = "own"
    clip_group: str | None = None  # modules of one group are clipped by the norm of them all
    init_from: str | Origin | None = None


@dataclass
class Module:
    """One entry of ``modules``; ``signature`` is None where it could not be known.

    Exactly one of ``block`` (a registered name) and ``graph`` (a sub-graph) is set once resolved.
    ``source`` is the module a teacher copies (``ema_of``) or the reference it was read from
    (``frozen_from``). ``statistics`` says by which mean and variance the BatchNorms of an EMA
    teacher normalise: the running ones, which are copied, or those of the batch it sees.
    """

    name: str
    kind: str  # block, graph, ema or frozen
    place: Place
    block: str | None = None
    arguments: dict[str, Any] = field(default_factory=dict)
    graph: "GraphSpec | None" = None
    source: str | Origin | None = None
    momentum: Schedule | None = None
    statistics: Statistics = "running"
    options: ModuleOptions = ModuleOptions()
    signature: Signature | None = None

    @property
    def is_teacher(self) -> bool:
        """True for modules that only ever run without gradient."""
        return self.kind in ("ema", "frozen")


@dataclass
class Source:
    """Where a port reads from: ``batch.x``, ``node.port``, or a node with one output."""

    node: str
    port: str | None
    place: Place

    @property
    def key(self) -> str:
        """The name of the value, once the port is known."""
        return f"{self.node}.{self.port}"


@dataclass
class Node:
    """One call of a module; a loss is a node with a weight."""

    name: str
    call: str
    inputs: dict[str, Source]
    detach: tuple[str, ...]
    place: Place
    call_place: Place
    ports: dict[str, Place]
    weight: Schedule | None = None

    @property
    def active(self) -> bool:
        """False for a loss whose weight is 0 throughout."""
        return self.weight is None or not self.weight.always_zero


@dataclass
class Log:
    """One entry of ``log``: a scalar, or a reconstruction picture."""

    name: str
    sources: dict[str, Source]
    picture: str | None = None
    patch: tuple[int, ...] = ()
    normalize: Normalize = "none"


@dataclass
class GraphSpec:
    """A graph as read.

    Attributes:
        files: all files it came from, sub-graphs included.
        unclear: something was not understood, so that what seems unused may not be.
    """

    name: str
    path: Path | None
    place: Place
    catalogue: Catalogue
    arguments: dict[str, Any] = field(default_factory=dict)
    inputs: dict[str, Input] = field(default_factory=dict)
    modules: dict[str, Module] = field(default_factory=dict)
    nodes: dict[str, Node] = field(default_factory=dict)
    losses: dict[str, Node] = field(default_factory=dict)
    outputs: dict[str, Source] = field(default_factory=dict)
    log: dict[str, Log] = field(default_factory=dict)
    files: list[Path] = field(default_factory=list)
    unclear: bool = False

    @property
    def calls(self) -> dict[str, Node]:
        """Nodes, then losses, in order of execution."""
        return {**self.nodes, **self.losses}

    @property
    def unresolved(self) -> list[str]:
        """Modules read from another stage that is not known here."""
        return [
            name
            for name, module in self.modules.items()
            if module.source and module.block is None and module.graph is None
        ]

    @property
    def structure(self) -> tuple[Any, ...]:
        """What decides the shapes of the graph: equal for graphs that are built alike."""
        modules = tuple(
            (m.name, m.kind, m.block, m.arguments, m.graph.structure if m.graph else None)
            for m in self.modules.values()
        )
        return self.path, self.arguments, modules

    @property
    def free_dimensions(self) -> bool:
        """True where a required input has a dimension, other than the batch, that may vary."""
        return any(
            isinstance(size, str) and size != "B"
            for item in self.inputs.values()
            if not item.optional
            for size in item.shape
        )


@dataclass(frozen=True)
class Reference:
    """A stage, run or checkpoint that ``frozen_from`` and ``init_from`` may name.

    Attributes:
        spec: the graph of that stage.
        weights: reads its trained weights, keyed as the state dict; None when only checking.
        start: for weights of another project: (name of its module, our module) -> weights for
            ours, and what was done to them, line by line; raises UserError where they do not fit.
        shapes: for a run: the shapes of its weights; raises UserError where they are damaged.
        recipes: for a run: how it made its inputs, by name.
    """

    spec: GraphSpec
    weights: Callable[[], Mapping[str, Any]] | None = None
    start: Callable[[str, Any], tuple[Mapping[str, Any], list[str]]] | None = None
    shapes: Callable[[], Mapping[str, tuple[int, ...]]] | None = None
    recipes: Mapping[str, Any] | None = None


def split_reference(reference: str | Origin) -> tuple[str | Origin, str, str]:
    """Split ``stage.module``, ``run folder:module`` or an Origin into (where, separator, module);
    all modules of one Origin's file are in the same place."""
    if isinstance(reference, Origin):
        return replace(reference, module=""), ":", reference.module
    stage, separator, name = reference.rpartition(":" if ":" in reference else ".")
    return stage, separator, name


def look_up(references: Mapping[str, Reference], where: str | Origin) -> Reference | None:
    """What stands at the first part that `split_reference` gives, if it is there."""
    return references.get(where)  # type: ignore[arg-type]
