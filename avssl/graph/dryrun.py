"""The dry run: a graph on the meta device with two batch sizes, before any data is read.

Finds shapes that do not fit, trained parameters that no loss reaches and losses that reach no
trained parameter; measures shapes and FLOPs on the way.
"""

import math
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from avssl.graph.calls import Call, plan
from avssl.graph.graph import Graph, SubGraph
from avssl.graph.source import Problems
from avssl.graph.spec import GraphSpec, Input

BATCHES = (2, 3)
FREE_SIZE = 24  # stands for letters other than B; grows with each letter so that two differ


@dataclass
class Trace:
    """What one dry run saw.

    Attributes:
        shapes: node name -> output port -> shape, with batch size 2; sub-graph nodes are named
            ``node/inner``; ``batch`` holds the inputs.
        dtypes: the same for dtypes.
        flops: node name (outermost only) -> floating-point operations of its forward, one clip;
            None where they were not counted.
        reached: loss name -> parameters (state-dict keys) that get a gradient from it.
    """

    shapes: dict[str, dict[str, tuple[int, ...]]] = field(default_factory=dict)
    dtypes: dict[str, dict[str, str]] = field(default_factory=dict)
    flops: dict[str, int] | None = None
    reached: dict[str, set[str]] = field(default_factory=dict)


class _Failed(Exception):
    """The dry run met a mistake, which is reported; what follows from it is not looked at."""


def dry_run(graph: Graph, problems: Problems, *, flops: bool = False) -> Trace:
    """Run ``graph`` (on the meta device) with two batch sizes and report what does not fit.

    ``flops`` also counts operations, which doubles the time.
    """
    trace = Trace(flops={} if flops else None)
    spec = graph.spec
    before = len(problems.found)
    modes = {name: module.training for name, module in graph.named_modules()}
    graph.train()
    try:
        values = _Runner(graph, BATCHES[0], problems, trace).run()
        _report_grids(graph, trace, problems)
        for name in spec.losses:
            trace.reached[name] = _reached(graph, _loss_value(values, name))
        with torch.no_grad():
            _Runner(graph, BATCHES[1], problems, None).run()
        if len(problems.found) == before and spec.losses:
            _report_reach(graph, trace, problems)
    except _Failed:
        pass
    finally:
        for name, module in graph.named_modules():
            module.training = modes[name]
    return trace


def needs_company(graph: Graph) -> str | None:
    """Why a graph that passed its dry run does not train on batches of one clip; None: it does."""
    for call in graph.calls:
        parts = graph.get_submodule(call.module).modules()
        if any(getattr(part, "contrasts_clips", False) for part in parts):
            return f"'{call.name}' contrasts the clips of a batch"
    problems = Problems()
    modes = {name: module.training for name, module in graph.named_modules()}
    graph.train()
    try:
        with torch.no_grad():
            _Runner(graph, 1, problems, None).run()
    except _Failed:
        pass
    finally:
        for name, module in graph.named_modules():
            module.training = modes[name]
    return next((sentence.rstrip(".") for _, sentence in problems.found), None)


def _report_grids(graph: Graph, trace: Trace, problems: Problems) -> None:
    """Report masks over another number of patches than the module that sees what they keep: the
    indices would point at other patches, or at none."""
    for node in graph.spec.calls.values():
        for port, source in node.inputs.items():
            mask = trace.shapes.get(source.node, {}).get("mask")
            if source.port != "keep" or mask is None:
                continue
            for part in graph.get_submodule(node.call).modules():
                grid = getattr(part, "grid", None)
                if grid is not None and math.prod(grid) != mask[1]:
                    problems.add(
                        node.ports[port],
                        f"'{source.key}' counts {mask[1]} patches, but '{node.call}' has "
                        f"{math.prod(grid)}, a grid of {' x '.join(map(str, grid))}: give both the "
                        "same picture size and patch.",
                    )
                    raise _Failed


class _Runner:
    def __init__(self, graph: Graph, batch: int, problems: Problems, trace: Trace | None) -> None:
        self.graph, self.batch, self.problems, self.trace = graph, batch, problems, trace
        letters: dict[str, int] = {"B": batch}
        for item in graph.inputs.values():
            for size in item.shape:
                if isinstance(size, str):
                    letters.setdefault(size, FREE_SIZE * len(letters))
        self.sizes = letters

    def run(self) -> dict[str, Any]:
        graph = self.graph
        values: dict[str, Any] = {}
        for name, item in graph.inputs.items():
            if item.optional:
                values[f"batch.{name}"] = None
                continue
            shape = [self.sizes[size] if isinstance(size, str) else size for size in item.shape]
            values[f"batch.{name}"] = torch.zeros(
                shape, dtype=getattr(torch, item.dtype), device="meta"
            )
        given = {
            name: values[f"batch.{name}"] for name, i in graph.inputs.items() if not i.optional
        }
        self.record("batch", given)
        spec = graph.spec
        read = {source.node for node in spec.calls.values() for source in node.inputs.values()}
        ends = [name for name in spec.calls if name not in read]
        self.run_calls(plan(spec, ends), graph, spec, values, "")
        for name in spec.losses:
            loss = _loss_value(values, name)
            if loss.dim():
                self.problems.add(
                    spec.losses[name].place,
                    f"loss '{name}' must be a scalar, its shape is {_shape(loss)}.",
                )
                raise _Failed
        return values

    def run_calls(
        self,
        calls: tuple[Call, ...],
        parent: nn.Module,
        spec: GraphSpec,
        values: dict[str, Any],
        path: str,
    ) -> None:
        for call in calls:
            arguments = {port: values[key] for port, key in call.inputs}
            for port in call.detach:
                arguments[port] = arguments[port].detach()
            module = parent.get_submodule(call.module)
            name = f"{path}{call.name}"
            counted = self.trace.flops if self.trace is not None and not path else None
            counter = FlopCounterMode(display=False) if counted is not None else None
            with (
                counter or nullcontext(),
                torch.set_grad_enabled(torch.is_grad_enabled() and not call.no_grad),
            ):
                if isinstance(module, SubGraph):
                    result = self.run_sub_graph(call, module, spec, arguments, name)
                else:
                    result = self.run_block(call, module, spec, arguments)
            ports = [port for port, _ in call.outputs]
            if isinstance(result, Tensor):
                result = {ports[0]: result}
            if not isinstance(result, dict) or set(result) != set(ports):
                found = sorted(result) if isinstance(result, dict) else type(result).__name__
                self.problems.add(
                    call.place,
                    f"node '{call.name}': '{call.module}' returned {found}, not {ports}.",
                )
                raise _Failed
            for port, key in call.outputs:
                values[key] = result[port]
            self.record(name, result)
            if counted is not None and counter is not None:
                counted[name] = counter.get_total_flops() // self.batch

    def run_block(
        self, call: Call, module: nn.Module, spec: GraphSpec, arguments: dict[str, Any]
    ) -> Any:
        try:
            return module(*call.ahead, **arguments)
        except Exception as error:  # whatever a block raises, its node is what is wrong
            node = spec.calls[call.name]
            given = ", ".join(
                f"{port} {_shape(value)} from {node.inputs[port].key}"
                for port, value in arguments.items()
            )
            reason = str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__
            extra = "" if self.batch == BATCHES[0] else f" (only with batch size {self.batch})"
            self.problems.add(
                call.place,
                f"node '{call.name}' fails{extra}: '{call.module}' got {given}: {reason}.",
            )
            raise _Failed from error

    def run_sub_graph(
        self,
        call: Call,
        module: SubGraph,
        spec: GraphSpec,
        arguments: dict[str, Any],
        name: str,
    ) -> dict[str, Any]:
        node = spec.calls[call.name]
        inner = module.spec
        free: dict[str, int] = {}
        for port, item in inner.inputs.items():
            value = arguments.get(port)
            if value is not None and not _fits(value, item, free):
                source = node.inputs[port]
                self.problems.add(
                    node.ports[port],
                    f"'{call.module}.{port}' takes {_declared(item)} ({item.place}), but "
                    f"{source.key} is {_shape(value)}.",
                )
                raise _Failed
        values: dict[str, Any] = {f"batch.{p}": arguments.get(p) for p in inner.inputs}
        read = tuple(port for port, _ in call.outputs)
        self.run_calls(module.calls(read), module, inner, values, f"{name}/")
        return {port: values[module.results[port]] for port in read}

    def record(self, name: str, result: Mapping[str, Tensor]) -> None:
        if self.trace is not None:
            self.trace.shapes[name] = {port: tuple(value.shape) for port, value in result.items()}
            self.trace.dtypes[name] = {
                port: str(value.dtype).removeprefix("torch.") for port, value in result.items()
            }


def _fits(value: Tensor, item: Input, free: dict[str, int]) -> bool:
    """Whether a tensor has the declared shape; a letter stands for one size in all ports."""
    if value.dim() != len(item.shape) or str(value.dtype) != f"torch.{item.dtype}":
        return False
    return all(
        free.setdefault(size, actual) == actual if isinstance(size, str) else size == actual
        for size, actual in zip(item.shape, value.shape, strict=True)
    )


def _shape(value: Tensor | None) -> str:
    if value is None:
        return "nothing"
    kind = "" if value.is_floating_point() else f" {str(value.dtype).removeprefix('torch.')}"
    return f"{list(value.shape)}{kind}"


def _declared(item: Input) -> str:
    kind = "" if item.dtype == "float32" else f" {item.dtype}"
    return f"[{', '.join(str(size) for size in item.shape)}]{kind}"


def _loss_value(values: dict[str, Any], name: str) -> Tensor:
    return next(value for key, value in values.items() if key.startswith(f"{name}."))


def _reached(graph: Graph, loss: Tensor) -> set[str]:
    """The parameters a loss trains: the leaves of its autograd graph."""
    names = {id(parameter): key for key, parameter in graph.named_parameters()}
    found: set[str] = set()
    waiting, seen = [loss.grad_fn], set()
    while waiting:
        function = waiting.pop()
        if function is None or function in seen:
            continue
        seen.add(function)
        leaf = getattr(function, "variable", None)
        if leaf is not None and id(leaf) in names:
            found.add(names[id(leaf)])
        waiting += [above for above, _ in function.next_functions]
    return found


def _report_reach(graph: Graph, trace: Trace, problems: Problems) -> None:
    spec = graph.spec
    cuts = set()
    for name, loss in spec.losses.items():
        if loss.active and not trace.reached[name]:
            cut = _cut(spec, name)
            cuts.add(cut)
            problems.add(loss.place, f"loss '{name}' reaches no trained module{cut}.")
    reached = set().union(*(trace.reached[name] for name in graph.losses))
    for name, module in spec.modules.items():
        if name in graph.frozen:
            continue
        own = [
            key
            for key, parameter in graph.get_submodule(name).named_parameters(prefix=name)
            if parameter.requires_grad
        ]
        left = [key for key in own if key not in reached]
        if left and len(left) == len(own):
            cut = _ends(spec, name)
            if cut not in cuts:  # reported with the loss
                problems.add(module.place, f"module '{name}' is trained but reaches no loss{cut}.")
        elif left:
            problems.add(
                module.place,
                f"{len(left)} of {len(own)} parameters of '{name}' get no gradient from any loss, "
                f"first '{left[0]}'.",
            )


def _cut(spec: GraphSpec, name: str) -> str:
    """Walk up from a loss and name the detached edge or frozen module that cuts the gradient."""
    waiting, seen = [name], set()
    while waiting:
        node = spec.calls[waiting.pop(0)]
        for port, source in node.inputs.items():
            if source.node == "batch" or source.node in seen:
                continue
            seen.add(source.node)
            if port in node.detach:
                return f": node '{node.name}' detaches '{port}' ({node.ports[port]})"
            above = spec.calls[source.node]
            if spec.modules[above.call].is_teacher:
                return f": node '{above.name}' calls the teacher '{above.call}' ({above.place})"
            waiting.append(source.node)
    return ""


def _ends(spec: GraphSpec, name: str) -> str:
    """Where the gradient path of a module's calls ends: the first detached edge below them."""
    below = {node.name for node in spec.calls.values() if node.call == name}
    for node in spec.calls.values():
        for port, source in node.inputs.items():
            if source.node in below:
                if port in node.detach:
                    return f": node '{node.name}' detaches '{port}' ({node.ports[port]})"
                below.add(node.name)
    return ""
