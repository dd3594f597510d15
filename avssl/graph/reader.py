"""Reading a graph file into a `GraphSpec`.

Everything that can be read wrong in one file (unknown sections and keys, wrong types, unknown
blocks and arguments, missing sub-graphs) is reported here; how the parts fit is ``names.py``.
"""

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avssl.errors import UserError
from avssl.graph.modules import ModuleReader
from avssl.graph.schema import Mismatch, convert
from avssl.graph.sections import NAME
from avssl.graph.source import (
    UNKNOWN,
    Document,
    Keys,
    Place,
    Problems,
    nearest,
    read_yaml,
)
from avssl.graph.spec import (
    GraphSpec,
    Input,
    Log,
    Node,
    Normalize,
    Reference,
    Source,
)
from avssl.registry import Catalogue
from avssl.schedules import Schedule

SECTIONS = ("plugins", "args", "inputs", "modules", "nodes", "losses", "outputs", "log")
DTYPES = ("float32", "int64", "bool")


def read_graph(
    source: Path | Document,
    problems: Problems,
    *,
    args: Mapping[str, Any] | None = None,
    args_places: Callable[[str], Place] | None = None,
    references: Mapping[str, Reference] | None = None,
    place: Place | None = None,
    catalogue: Catalogue | None = None,
    inner: bool = False,
    starts: bool = True,
) -> GraphSpec | None:
    """Read one graph and its sub-graphs; what is wrong goes to ``problems``.

    Args:
        source: a YAML file or an already read document.
        problems: collects mistakes.
        args: values for names of the file's ``args`` section.
        args_places: where each of ``args`` was written, for messages.
        references: stages that ``frozen_from`` and ``init_from`` may name; None: not known here.
        place: where the file was named, for messages.
        catalogue: the blocks in scope (plugins of the outer graph included).
        inner: True for a sub-graph, which has no losses, teachers or plugins.
        starts: False for a graph that was trained: what ``init_from`` names may be gone.
    """
    document = source if isinstance(source, Document) else read_yaml(source, problems, place=place)
    if document is None:
        return None
    reader = _Reader(
        document, problems, references, catalogue or Catalogue(), inner, place or Place("argument")
    )
    reader.starts = starts
    return reader.read(dict(args or {}), args_places)


class _Reader(ModuleReader):
    def read(self, args: dict[str, Any], args_places: Callable[[str], Place] | None) -> GraphSpec:
        document = self.document
        spec = GraphSpec(document.name, document.path, document.value_place(()), self.catalogue)
        if document.path is not None:
            spec.files.append(document.path)
        self.spec = spec
        allowed = ("args", "inputs", "modules", "nodes", "outputs") if self.inner else SECTIONS
        for section in list(document.data):
            if section not in allowed:
                self.problem((section,), f"unknown section '{section}'.", section, allowed)
                meant = nearest(section, allowed)
                if meant and meant not in document.data:
                    document.rename(section, meant)  # what follows is looked at all the same
                else:
                    spec.unclear = True
        if "plugins" in allowed:
            self.read_plugins()
        self.read_args(args, args_places)
        document.data = {
            section: self.interpolate(value, (section,)) if section != "args" else value
            for section, value in document.data.items()
        }
        for name, value in self.section("inputs").items():
            self.read_input(name, value)
        for name, value in self.section("modules").items():
            self.read_module(name, value)
        for name, value in self.section("nodes").items():
            self.read_node("nodes", name, value, spec.nodes)
        if "losses" in allowed:
            for name, value in self.section("losses").items():
                if name in spec.nodes:
                    self.problem(("losses", name), f"'{name}' names a node and a loss; rename one.")
                self.read_node("losses", name, value, spec.losses)
        for name, value in self.section("outputs").items():
            source = self.read_source(value, ("outputs", name))
            if source:
                spec.outputs[name] = source
        if "log" in allowed:
            for name, value in self.section("log").items():
                self.read_log(name, value)
        return spec

    def read_plugins(self) -> None:
        plugins = self.document.data.get("plugins") or []
        if not isinstance(plugins, list) or not all(isinstance(item, str) for item in plugins):
            self.problem(("plugins",), "'plugins' must be a list of .py files or entry points.")
            return
        folder = self.document.path.parent if self.document.path else None
        for index, plugin in enumerate(plugins):
            try:
                self.catalogue.add_plugin(plugin, folder)
            except UserError as error:
                self.value_problem(("plugins", index), f"{error}.")
                self.catalogue.complete = False
                continue
            if plugin.endswith(".py"):
                self.spec.files.append((folder or Path.cwd()) / plugin)

    def read_args(self, args: dict[str, Any], args_places: Callable[[str], Place] | None) -> None:
        """Defaults of the file, replaced by what the caller gives in the same type; for a word,
        such as previous.image, also the mapping form of a reference."""
        defaults = self.section("args")
        self.spec.arguments = dict(defaults)
        for name, value in args.items():
            where = args_places(name) if args_places else self.named_at
            if name not in defaults:
                self.problems.add(
                    where,
                    f"'{self.document.name}' has no argument '{name}'.",
                    unknown=name,
                    known=defaults,
                )
                continue
            default = defaults[name]
            origin = isinstance(default, str) and isinstance(value, dict)  # of a reference
            if default is not None and value is not UNKNOWN and not origin:
                try:
                    value = convert(value, float if isinstance(default, float) else type(default))
                except Mismatch as expected:
                    self.problems.add(
                        where,
                        f"argument '{name}' of '{self.document.name}' must be {expected}, "
                        f"found {value!r}.",
                    )
                    value = UNKNOWN
            self.spec.arguments[name] = value

    def read_input(self, name: str, value: Any) -> None:
        path: Keys = ("inputs", name)
        dtype, optional, shape = "float32", False, value
        if isinstance(value, dict):
            self.keys(value, path, ("shape", "dtype", "optional"), f"input '{name}'")
            dtype, optional = value.get("dtype", dtype), value.get("optional", optional)
            shape = value.get("shape")
            if dtype not in DTYPES:
                self.value_problem(
                    (*path, "dtype"), f"unknown dtype '{dtype}'.", str(dtype), DTYPES
                )
                dtype = "float32"
            if not isinstance(optional, bool):
                self.value_problem((*path, "optional"), "'optional' must be true or false.")
        sizes = shape if isinstance(shape, list) else []
        good = all(
            size is UNKNOWN
            or (isinstance(size, int) and not isinstance(size, bool) and size > 0)
            or (isinstance(size, str) and NAME.match(size))
            for size in sizes
        )
        if not sizes or not good or isinstance(sizes[0], int):
            self.value_problem(
                path,
                f"input '{name}' needs a shape like [B, 3, 224, 224]: B (or, for what is not one "
                "a clip, another letter) first, then whole numbers above 0 or letters; "
                f"found {shape!r}.",
            )
            sizes = [UNKNOWN]
        self.spec.inputs[name] = Input(
            tuple(sizes), dtype, bool(optional), self.document.key_place(path)
        )

    def read_node(self, section: str, name: str, value: Any, into: dict[str, Node]) -> None:
        path: Keys = (section, name)
        is_loss = section == "losses"
        what = f"{'loss' if is_loss else 'node'} '{name}'"
        allowed = ("call", "in", "detach", *(("weight",) if is_loss else ()))
        before = len(self.problems.found)
        readable = self.keys(value, path, allowed, what)
        self.spec.unclear |= len(self.problems.found) > before
        if not readable:
            return
        if name == "batch":
            self.problem(path, "'batch' names the graph's inputs; choose another node name.")
        call = value.get("call")
        if not isinstance(call, str):
            if not any(key not in allowed for key in value):
                self.problem(path, f"{what} needs 'call: module'.")
            call = ""
        inputs: dict[str, Source] = {}
        connections = value.get("in") or {}
        if not isinstance(connections, dict):
            self.spec.unclear = True
            self.value_problem((*path, "in"), f"'in' of {what} must be a mapping {{port: source}}.")
            connections = {}
        for port, text in connections.items():
            source = self.read_source(text, (*path, "in", port))
            inputs[port] = source or Source("", None, self.document.value_place((*path, "in")))
        detach = value.get("detach") or []
        if not isinstance(detach, list):
            self.value_problem((*path, "detach"), f"'detach' of {what} must be a list of ports.")
            detach = []
        for index, port in enumerate(detach):
            if port not in connections:
                self.value_problem(
                    (*path, "detach", index),
                    f"{what} detaches '{port}', which it does not read.",
                    str(port),
                    connections,
                )
        weight = None
        if is_loss:
            weight = Schedule.parse(1.0)
            if value.get("weight", 1.0) is not UNKNOWN:
                try:
                    weight = Schedule.parse(value.get("weight", 1.0))
                    if not all(0 <= end < math.inf for end in (weight.start, weight.end)):
                        raise ValueError(f"it must be 0 or more, found {value['weight']!r}")
                except ValueError as error:
                    self.value_problem((*path, "weight"), f"weight of {what}: {error}.")
        into[name] = Node(
            name,
            call,
            inputs,
            tuple(str(port) for port in detach),
            self.document.key_place(path),
            self.document.value_place((*path, "call")),
            {port: self.document.key_place((*path, "in", port)) for port in connections},
            weight,
        )

    def read_log(self, name: str, value: Any) -> None:
        path: Keys = ("log", name)
        if isinstance(value, str):
            source = self.read_source(value, path)
            if source:
                self.spec.log[name] = Log(name, {"value": source})
            return
        ports = ("input", "prediction", "mask")
        if not self.keys(value, path, ("picture", *ports, "patch", "normalize"), f"log '{name}'"):
            return
        if value.get("picture") != "reconstruction":
            self.problem(path, f"log '{name}' is 'node.port' or {{picture: reconstruction, ...}}.")
            return
        sources = {
            port: source
            for port in ports
            if (source := self.read_source(value.get(port), (*path, port))) is not None
        }
        patch = value.get("patch")
        if UNKNOWN in (patch if isinstance(patch, list) else ()):
            return
        try:
            patch = convert(patch, list[int])
            normalize = convert(value.get("normalize", "none"), Normalize)
        except Mismatch as expected:
            self.problem(path, f"'patch' and 'normalize' of log '{name}': expected {expected}.")
            return
        if len(sources) == len(ports):
            self.spec.log[name] = Log(name, sources, "reconstruction", tuple(patch), normalize)
