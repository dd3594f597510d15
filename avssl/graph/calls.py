"""Calls: what a graph does, worked out beforehand and run in order."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from avssl.errors import UserError
from avssl.graph.source import Place
from avssl.graph.spec import GraphSpec, Node


@dataclass(frozen=True)
class Call:
    """One step of the forward loop, with everything looked up beforehand."""

    name: str
    module: str
    inputs: tuple[tuple[str, str], ...]  # (port, key of the value)
    detach: tuple[str, ...]
    outputs: tuple[tuple[str, str], ...]  # (output port, key of the value)
    no_grad: bool
    frozen: bool  # of a teacher that was read and never moves, which may have its own precision
    place: Place
    partial: bool  # the module is told which outputs are read, and may leave out the others

    @property
    def ahead(self) -> tuple[tuple[str, ...], ...]:
        """What the module takes before its inputs."""
        return (tuple(port for port, _ in self.outputs),) if self.partial else ()


def execute(
    calls: Sequence[Call],
    modules: Mapping[str, nn.Module | None],
    values: dict[str, Any],
    teacher_dtype: torch.dtype | None = None,
) -> None:
    """Run calls in order on ``values`` (keys ``batch.x`` and ``node.port``), which they extend;
    frozen teachers in a precision of their own, where one is given."""
    for call in calls:
        arguments = {port: values[key] for port, key in call.inputs}
        for port in call.detach:
            arguments[port] = arguments[port].detach()
        module = modules[call.module]
        assert module is not None
        if call.frozen and teacher_dtype is not None:
            result = _teach(module, call, arguments, teacher_dtype)
        else:
            with torch.no_grad() if call.no_grad else nullcontext():
                result = module(*call.ahead, **arguments)
        if isinstance(result, Tensor):
            values[call.outputs[0][1]] = result
        else:
            for port, key in call.outputs:
                values[key] = result[port]


def _teach(module: nn.Module, call: Call, arguments: Mapping[str, Any], dtype: torch.dtype) -> Any:
    """Run a frozen teacher in float32, or under bfloat16 autocast; what goes in and what comes out
    is float32."""
    given = {port: _single(value) for port, value in arguments.items()}
    device = next(value.device.type for value in given.values() if isinstance(value, Tensor))
    lower = dtype == torch.bfloat16
    with torch.no_grad(), torch.autocast(device, dtype=torch.bfloat16, enabled=lower):
        result = module(*call.ahead, **given)
    if isinstance(result, Tensor):
        return _single(result)
    return {port: _single(value) for port, value in result.items()}


def _single(value: Any) -> Any:
    return value.float() if isinstance(value, Tensor) and value.is_floating_point() else value


def execute_located(
    calls: Sequence[Call],
    modules: Mapping[str, nn.Module | None],
    values: dict[str, Any],
    teacher_dtype: torch.dtype | None = None,
) -> None:
    """Run calls as ``execute`` does; an exception names the node it rose in and where that is."""
    if torch.compiler.is_compiling():
        execute(calls, modules, values, teacher_dtype)
        return
    for call in calls:
        try:
            execute((call,), modules, values, teacher_dtype)
        except Exception as error:  # it goes on, with a note
            note = f"in node '{call.name}' ({call.place}), which calls '{call.module}'"
            error.__notes__ = [*getattr(error, "__notes__", []), note]  # add_note is Python 3.11
            raise


def plan(spec: GraphSpec, keys: Sequence[str], given: Collection[str] = ()) -> tuple[Call, ...]:
    """The calls that compute ``keys`` (nodes or ``node.port``), in order of execution, where the
    values ``given`` (``node.port``) are there already."""
    needed: dict[str, set[str]] = {}  # node -> its ports that are read; "" is its only one
    for key in keys:
        if key not in given:
            name, _, port = key.partition(".")
            needed.setdefault(name, set()).add(port)
    calls: list[Call] = []
    for node in reversed(spec.calls.values()):
        if node.name in needed:
            calls.append(_call(spec, node, needed[node.name]))
            for source in node.inputs.values():
                if source.key not in given:
                    name, _, port = source.key.partition(".")
                    needed.setdefault(name, set()).add(port)
    return tuple(reversed(calls))


def _call(spec: GraphSpec, node: Node, read: set[str]) -> Call:
    module = spec.modules[node.call]
    assert module.signature is not None
    ports = module.signature.outputs
    if module.signature.partial and "" not in read:
        ports = tuple(port for port in ports if port in read)
    return Call(
        node.name,
        node.call,
        tuple((port, source.key) for port, source in node.inputs.items()),
        node.detach,
        tuple((port, f"{node.name}.{port}") for port in ports),
        module.is_teacher,
        module.kind == "frozen",
        node.place,
        module.signature.partial,
    )


def only_output(spec: GraphSpec, name: str) -> str:
    """The only output port of a node."""
    module = spec.modules[spec.calls[name].call]
    assert module.signature is not None
    if len(module.signature.outputs) != 1:
        outputs = ", ".join(module.signature.outputs)
        raise UserError(f"node '{name}' has several outputs; name one: {outputs}")
    return module.signature.outputs[0]
