"""Which modules of a graph are encoders: found by how the graph calls them."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, field

from avssl.graph.spec import GraphSpec, Node, Source


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
    batch that are made from data; a fusion is one whose required ports read at least two towers.
    """
    towers: dict[str, Tower] = {}
    fusions: dict[str, Fusion] = {}
    callers: dict[str, str] = {}  # node -> the tower it calls
    for node in spec.nodes.values():
        module = spec.modules[node.call]
        if module.graph is None:
            continue
        sources = _required(spec, node)
        if all(source.node == "batch" and source.port in inputs for source in sources.values()):
            callers[node.name] = module.name
            ports = {port: source.port or "" for port, source in sources.items()}
            tower = Tower(module.name, ports, module.is_teacher, _extra(spec, node))
            towers.setdefault(module.name, tower)
        elif len({callers.get(source.node) for source in sources.values()}) > 1 and all(
            source.node in callers for source in sources.values()
        ):
            read = {port: (callers[s.node], s.port or "") for port, s in sources.items()}
            fusion = Fusion(module.name, read, module.is_teacher, _extra(spec, node))
            fusions.setdefault(module.name, fusion)
    return Roles(towers, fusions)


def _required(spec: GraphSpec, node: Node) -> dict[str, Source]:
    """What the ports read that must be connected."""
    signature = spec.modules[node.call].signature
    assert signature is not None
    return {port: source for port, source in node.inputs.items() if signature.ports.get(port)}


def _extra(spec: GraphSpec, node: Node) -> dict[str, str]:
    """Optional port -> key of the batch, where it reads one."""
    required = _required(spec, node)
    return {
        port: source.port or ""
        for port, source in node.inputs.items()
        if port not in required and source.node == "batch"
    }
