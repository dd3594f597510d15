"""Which modules of a graph are encoders: found by how the graph calls them."""

from __future__ import annotations

from collections.abc import Container, Iterator
from dataclasses import dataclass, field

from avssl.graph.spec import GraphSpec, Input, Node, Source


@dataclass(frozen=True)
class Tower:
    """A sub-graph that reads inputs of the batch.

    module: its name in the graph. ports: port -> input, optional ports (a mask's) left out.
    teacher: it was never trained itself. extra: optional port -> input, of those that read the
    batch, such as `frames`; given where a batch has it.
    """

    module: str
    ports: dict[str, str]
    teacher: bool
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def input(self) -> str:
        """The input of the batch that it reads first."""
        return next(iter(self.ports.values()))


@dataclass(frozen=True)
class Fusion:
    """A sub-graph that joins towers.

    module: its name in the graph. ports: port -> (tower, output of that tower); its own outputs
    have the names of its ports. teacher: it was never trained itself. extra: as of a tower.
    """

    module: str
    ports: dict[str, tuple[str, str]]
    teacher: bool
    extra: dict[str, str] = field(default_factory=dict)

    @property
    def towers(self) -> list[str]:
        """The towers it joins."""
        return [name for name, _ in self.ports.values()]


@dataclass(frozen=True)
class Roles:
    """Towers and fusions, by module name."""

    towers: dict[str, Tower]
    fusions: dict[str, Fusion]


def find_roles(spec: GraphSpec, inputs: Container[str]) -> Roles:
    """The towers and fusions of a graph.

    A tower is a sub-graph (or a teacher copied from one) whose required ports read inputs of the
    batch that are made from data, directly or through blocks (which hide a part of them) that leave
    their shape; a fusion is one whose required ports read at least two towers.
    """
    towers: dict[str, Tower] = {}
    fusions: dict[str, Fusion] = {}
    callers: dict[str, str] = {}  # node -> the tower it calls
    for node in spec.nodes.values():
        module = spec.modules[node.call]
        if module.graph is None:
            continue
        sources = _required(spec, node)
        reads = {
            port: _input_of(spec, source, inputs, module.graph.inputs.get(port))
            for port, source in sources.items()
        }
        if all(reads.values()):
            callers[node.name] = module.name
            ports = {port: read for port, read in reads.items() if read is not None}
            towers.setdefault(
                module.name, Tower(module.name, ports, module.is_teacher, _direct(spec, node))
            )
        elif len({callers.get(source.node) for source in sources.values()}) > 1 and all(
            source.node in callers for source in sources.values()
        ):
            read = {port: (callers[s.node], s.port or "") for port, s in sources.items()}
            fusions.setdefault(
                module.name, Fusion(module.name, read, module.is_teacher, _direct(spec, node))
            )
    return Roles(towers, fusions)


def _required(spec: GraphSpec, node: Node) -> dict[str, Source]:
    """Where the ports read from that must be connected."""
    signature = spec.modules[node.call].signature
    assert signature is not None
    return {port: s for port, s in node.inputs.items() if signature.ports.get(port)}


def _direct(spec: GraphSpec, node: Node) -> dict[str, str]:
    """Optional port -> key of the batch, where it reads one directly."""
    required = _required(spec, node)
    return {
        port: source.port or ""
        for port, source in node.inputs.items()
        if port not in required and source.node == "batch"
    }


def _input_of(
    spec: GraphSpec, source: Source, inputs: Container[str], wanted: Input | None
) -> str | None:
    """The only input of the batch that a port reads, if it has the shape that the port wants."""
    found = {name for name in _behind(spec, source) if name is None or name in inputs}
    name = found.pop() if len(found) == 1 else None
    if name is None or wanted is None or name not in spec.inputs:
        return None
    given = spec.inputs[name].shape
    fits = len(given) == len(wanted.shape) and all(
        a == b or isinstance(a, str) or isinstance(b, str)
        for a, b in zip(given, wanted.shape, strict=True)
    )
    return name if fits else None


def _behind(spec: GraphSpec, source: Source) -> Iterator[str | None]:
    """Inputs of the batch that a value is made from by blocks alone; None for anything else."""
    if source.node == "batch":
        yield source.port
        return
    node = spec.nodes.get(source.node)
    if node is None or spec.modules[node.call].graph is not None or not node.inputs:
        yield None
        return
    for above in node.inputs.values():
        yield from _behind(spec, above)
