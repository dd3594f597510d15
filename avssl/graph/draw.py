"""Pictures of a graph: SVG (layered, top to bottom) and mermaid text.

Trained boxes have solid borders, frozen ones and teachers dashed; detached edges are red; edges
carry shapes with batch size B, boxes parameters and forward FLOPs per clip.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from html import escape
from itertools import pairwise

from avssl.graph.check import Report
from avssl.graph.dryrun import BATCHES

LINE, PADDING, GAP_X, GAP_Y, CHARACTER = 15, 8, 28, 70, 6.6
COLOURS = {"input": "#e8eef7", "node": "#ffffff", "loss": "#fdf1d8"}


@dataclass
class Box:
    """One box of the picture; a box without lines is a bend of a long edge."""

    lines: list[str]
    kind: str
    dashed: bool
    layer: int = 0
    x: float = 0.0
    y: float = 0.0
    above: list[str] = field(default_factory=list)
    below: list[str] = field(default_factory=list)

    @property
    def width(self) -> float:
        return max((len(line) for line in self.lines), default=0) * CHARACTER + 2 * PADDING

    @property
    def height(self) -> float:
        return len(self.lines) * LINE + 2 * PADDING if self.lines else 0


@dataclass(frozen=True)
class Edge:
    """From an output port to an input port."""

    source: str
    target: str
    label: str
    detached: bool


def count(number: int) -> str:
    """A count in three digits: 85.3M, 1.02G."""
    for factor, unit in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= factor:
            return f"{number / factor:.3g}{unit}"
    return str(number)


def boxes_and_edges(report: Report) -> tuple[dict[str, Box], list[Edge]]:
    """What both pictures show, from a checked graph."""
    spec, graph, trace = report.spec, report.graph, report.trace
    boxes = {f"batch.{name}": Box([f"batch.{name}"], "input", False) for name in spec.inputs}
    edges = []
    for node in spec.calls.values():
        module = spec.modules[node.call]
        facts = []
        if graph is not None and node.call in graph._modules:
            size = sum(p.numel() for p in graph.get_submodule(node.call).parameters())
            facts += [f"{count(size)} parameters"] if size else []
        flops = trace.flops.get(node.name, 0) if trace and trace.flops else 0
        facts += [f"{count(flops)}FLOP"] if flops else []
        title = f"{node.name} = {node.call}" if node.name != node.call else node.name
        if node.weight is not None:
            weight = node.weight
            moving = weight.kind != "constant"
            title += f"  x {weight.start:g}" + (f"..{weight.end:g}" if moving else "")
        frozen = module.is_teacher or module.options.freeze or not node.active
        kind = "node" if node.weight is None else "loss"
        boxes[node.name] = Box([title, *([", ".join(facts)] if facts else [])], kind, frozen)
        for port, source in node.inputs.items():
            start = source.key if source.node == "batch" else source.node
            shapes = trace.shapes.get(source.node, {}) if trace else {}
            shape = shapes.get(str(source.port))
            label = _label(shape) if shape is not None else ""
            if source.node != "batch":
                label = f"{source.port} {label}".strip()
            edges.append(Edge(start, node.name, label, port in node.detach))
    return boxes, edges


def _label(shape: tuple[int, ...]) -> str:
    sizes = ["B" if i == 0 and size == BATCHES[0] else str(size) for i, size in enumerate(shape)]
    return f"[{', '.join(sizes)}]" if sizes else ""


def mermaid(report: Report) -> str:
    """The graph as a mermaid flowchart."""
    boxes, edges = boxes_and_edges(report)
    names = {name: f"n{index}" for index, name in enumerate(boxes)}
    lines = ["flowchart TD"]
    shapes = {"input": ("([", "])"), "node": ("[", "]"), "loss": ("{{", "}}")}
    for name, box in boxes.items():
        left, right = shapes[box.kind]
        lines.append(f'  {names[name]}{left}"{"<br/>".join(box.lines)}"{right}')
    for edge in edges:
        label = f'|"{edge.label}"|' if edge.label else ""
        lines.append(f"  {names[edge.source]} -->{label} {names[edge.target]}")
    dashed = [names[name] for name, box in boxes.items() if box.dashed]
    red = [str(index) for index, edge in enumerate(edges) if edge.detached]
    if dashed:
        lines += [
            "  classDef frozen stroke-dasharray: 5 4",
            f"  class {','.join(dashed)} frozen",
        ]
    if red:
        lines.append(f"  linkStyle {','.join(red)} stroke:#c0392b")
    return "\n".join(lines) + "\n"


def svg(report: Report) -> str:
    """The graph as one self-contained SVG picture."""
    boxes, edges = boxes_and_edges(report)
    boxes = _drop_loose(boxes, edges)
    paths = _layers(boxes, edges)
    layers = _order(boxes)
    _place(boxes, layers)
    width = max(box.x + box.width / 2 for box in boxes.values()) + 60
    height = max(box.y + box.height for box in boxes.values()) + 20
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width:.0f}" height="{height:.0f}" '
        f'viewBox="0 0 {width:.0f} {height:.0f}" font-family="monospace" font-size="11">',
        "<style>.e{fill:none;stroke:#55606e}.d{stroke:#c0392b}.t{fill:#3b4a5c;font-size:9px;"
        "paint-order:stroke;stroke:white;stroke-width:3px}</style>",
        '<rect width="100%" height="100%" fill="white"/>',
    ]
    starts = _departures(boxes, edges, paths)
    ends = _arrivals(boxes, edges, paths)
    parts += [
        _draw_edge([start, *((boxes[name].x, boxes[name].y) for name in path[1:-1]), end], edge)
        for edge, path, start, end in zip(edges, paths, starts, ends, strict=True)
    ]
    labels: dict[tuple[float, float], str] = {
        start: edge.label for edge, start in zip(edges, starts, strict=True) if edge.label
    }
    rows: dict[float, list[tuple[float, float]]] = {}
    for (x, y), label in sorted(labels.items()):
        # Labels of one row step down until they stand free of those already placed.
        taken = rows.setdefault(y, [])
        level = 0
        while any(row == level and x < right for row, right in taken):
            level += 1
        taken.append((level, x + len(label) * 5.5 + 6))
        parts.append(
            f'<text class="t" x="{x + 3:.0f}" y="{y + 12 + 10 * level:.0f}">{escape(label)}</text>'
        )
    parts += [_draw_box(box) for box in boxes.values() if box.lines]
    return "\n".join([*parts, "</svg>", ""])


def _departures(
    boxes: dict[str, Box], edges: list[Edge], paths: list[list[str]]
) -> list[tuple[float, float]]:
    """Where each edge leaves its box: one point for each output, spread over the lower side."""
    slots: dict[str, dict[str, float]] = {}
    for edge, path in zip(edges, paths, strict=True):
        slots.setdefault(edge.source, {}).setdefault(edge.label, boxes[path[1]].x)
    points = []
    for edge in edges:
        box, own = boxes[edge.source], slots[edge.source]
        rank = sorted(own, key=lambda label: own[label]).index(edge.label)
        x = box.x + box.width * ((rank + 0.5) / len(own) - 0.5)
        points.append((x, box.y + box.height))
    return points


def _arrivals(
    boxes: dict[str, Box], edges: list[Edge], paths: list[list[str]]
) -> list[tuple[float, float]]:
    """Where each edge enters its box, spread over the upper side in the order they come."""
    into: dict[str, list[int]] = {}
    for index, edge in enumerate(edges):
        into.setdefault(edge.target, []).append(index)
    points: list[tuple[float, float]] = [(0.0, 0.0)] * len(edges)
    for target, indices in into.items():
        box = boxes[target]
        indices.sort(key=lambda index: boxes[paths[index][-2]].x)
        for rank, index in enumerate(indices):
            x = box.x + box.width * ((rank + 0.5) / len(indices) - 0.5)
            points[index] = (x, box.y)
    return points


def _drop_loose(boxes: dict[str, Box], edges: list[Edge]) -> dict[str, Box]:
    used = {edge.source for edge in edges} | {edge.target for edge in edges}
    return {name: box for name, box in boxes.items() if name in used}


def _layers(boxes: dict[str, Box], edges: list[Edge]) -> list[list[str]]:
    """Give every box its layer, bend edges over several layers; returns the boxes of each edge."""
    for name, box in list(boxes.items()):  # boxes stand in order of execution
        sources = [edge.source for edge in edges if edge.target == name]
        box.layer = max((boxes[source].layer + 1 for source in sources), default=0)
    for name in reversed(list(boxes)):  # inputs move down next to their first reader
        targets = [boxes[edge.target].layer for edge in edges if edge.source == name]
        if boxes[name].kind == "input" and targets:
            boxes[name].layer = min(targets) - 1
    paths = []
    for index, edge in enumerate(edges):
        path = [edge.source]
        for layer in range(boxes[edge.source].layer + 1, boxes[edge.target].layer):
            bend = f"{index}@{layer}"
            boxes[bend] = Box([], "bend", False, layer)
            path.append(bend)
        path.append(edge.target)
        paths.append(path)
        for upper, lower in pairwise(path):
            boxes[upper].below.append(lower)
            boxes[lower].above.append(upper)
    return paths


def _order(boxes: dict[str, Box]) -> list[list[str]]:
    """Sort each layer by where its neighbours stand (barycentre sweeps, Sugiyama et al. 1981)."""
    depth = max(box.layer for box in boxes.values()) + 1
    layers: list[list[str]] = [[] for _ in range(depth)]
    for name, box in boxes.items():
        layers[box.layer].append(name)
    for sweep in range(8):
        downwards = sweep % 2 == 0
        for layer in layers if downwards else reversed(layers):
            position = {name: i for row in layers for i, name in enumerate(row)}

            def centre(name: str, at: dict[str, int] = position, down: bool = downwards) -> float:
                near = boxes[name].above if down else boxes[name].below
                return _mean((at[other] for other in near), at[name])

            layer.sort(key=centre)
    return layers


def _mean(values: Iterable[float], otherwise: float) -> float:
    found = list(values)
    return sum(found) / len(found) if found else otherwise


def _place(boxes: dict[str, Box], layers: list[list[str]]) -> None:
    """Set coordinates: rows from the top, boxes near the mean of their neighbours."""
    y = 20.0
    for layer in layers:
        for index, name in enumerate(layer):
            boxes[name].x, boxes[name].y = 160.0 * index, y
        y += max(boxes[name].height for name in layer) + GAP_Y
    for sweep in range(40):
        for layer in layers if sweep % 2 else reversed(layers):
            wanted = []
            for name in layer:
                box = boxes[name]
                near = [*box.above, *box.below] if sweep > 20 else (box.above or box.below)
                wanted.append(_mean((boxes[other].x for other in near), box.x))
            # The mean of packing from the left and from the right keeps the row balanced.
            left = _pack([boxes[name] for name in layer], wanted)
            mirrored = _pack([boxes[name] for name in layer[::-1]], [-x for x in wanted[::-1]])
            for name, x, other in zip(layer, left, mirrored[::-1], strict=True):
                boxes[name].x = (x - other) / 2
    shift = 20 - min(box.x - box.width / 2 for box in boxes.values())
    for box in boxes.values():
        box.x += shift


def _pack(row: list[Box], wanted: list[float]) -> list[float]:
    """Positions at or right of the wanted ones that do not overlap."""
    positions: list[float] = []
    for index, (box, target) in enumerate(zip(row, wanted, strict=True)):
        if index:
            before = row[index - 1]
            gap = GAP_X if box.lines and before.lines else GAP_X / 2
            target = max(target, positions[-1] + before.width / 2 + gap + box.width / 2)
        positions.append(target)
    return positions


def _draw_edge(points: list[tuple[float, float]], edge: Edge) -> str:
    data = f"M{points[0][0]:.0f},{points[0][1]:.0f}"
    for (x0, y0), (x1, y1) in pairwise(points):
        middle = (y0 + y1) / 2
        data += f"C{x0:.0f},{middle:.0f} {x1:.0f},{middle:.0f} {x1:.0f},{y1:.0f}"
    x, y = points[-1]
    head = f"M{x - 3:.0f},{y - 6:.0f}L{x:.0f},{y:.0f}L{x + 3:.0f},{y - 6:.0f}"
    kind = "e d" if edge.detached else "e"
    return f'<path class="{kind}" d="{data}"/><path class="{kind}" d="{head}"/>'


def _draw_box(box: Box) -> str:
    left, dash = box.x - box.width / 2, ' stroke-dasharray="5 4"' if box.dashed else ""
    texts = "".join(
        f'<text x="{box.x:.0f}" y="{box.y + PADDING + 11 + LINE * row:.0f}" '
        f'text-anchor="middle">{escape(line)}</text>'
        for row, line in enumerate(box.lines)
    )
    return (
        f'<rect x="{left:.0f}" y="{box.y:.0f}" width="{box.width:.0f}" height="{box.height:.0f}" '
        f'rx="4" fill="{COLOURS[box.kind]}" stroke="#222"{dash}/>{texts}'
    )
