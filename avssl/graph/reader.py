"""Reading a graph file into a `GraphSpec`.

Everything that can be read wrong in one file (unknown sections and keys, wrong types, unknown
blocks and arguments, missing sub-graphs) is reported here; how the parts fit is ``names.py``.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from avssl.errors import UserError
from avssl.graph.schema import Mismatch, convert, fill
from avssl.graph.source import (
    UNKNOWN,
    Document,
    Keys,
    Place,
    Problems,
    find_file,
    nearest,
    read_yaml,
)
from avssl.graph.spec import (
    STATISTICS,
    GraphSpec,
    Input,
    Log,
    Module,
    ModuleOptions,
    Node,
    Origin,
    Reference,
    Source,
    look_up,
    split_reference,
)
from avssl.registry import Catalogue, Signature
from avssl.schedules import Schedule

SECTIONS = ("plugins", "args", "inputs", "modules", "nodes", "losses", "outputs", "log")
DTYPES = ("float32", "int64", "bool")
OPTIONS = ("freeze", "lr_scale", "layer_decay", "clip_group", "init_from")
_ARGUMENT = re.compile(r"\$\{args\.([A-Za-z_]\w*)\}")
_NAME = re.compile(r"^[A-Za-z_]\w*$")


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


class _Reader:
    def __init__(
        self,
        document: Document,
        problems: Problems,
        references: Mapping[str, Reference] | None,
        catalogue: Catalogue,
        inner: bool,
        named_at: Place,
    ) -> None:
        self.document = document
        self.problems = problems
        self.references = references
        self.catalogue = catalogue
        self.inner = inner
        self.named_at = named_at
        self.starts = True

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

    def problem(
        self, path: Keys, sentence: str, unknown: str | None = None, known: Any = ()
    ) -> None:
        self.problems.add(self.document.key_place(path), sentence, unknown=unknown, known=known)

    def value_problem(
        self, path: Keys, sentence: str, unknown: str | None = None, known: Any = ()
    ) -> None:
        self.problems.add(self.document.value_place(path), sentence, unknown=unknown, known=known)

    def section(self, name: str) -> dict[str, Any]:
        value = self.document.data.get(name)
        if value is None:
            return {}
        if not isinstance(value, dict):
            self.problem((name,), f"section '{name}' must be a mapping, found {value!r}.")
            return {}
        for key in value:
            if not _NAME.match(key):
                self.problem((name, key), f"'{key}' is not a name: use letters, digits and '_'.")
        return value

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
        """Defaults of the file, replaced by what the caller gives in the same type."""
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
            if default is not None and value is not UNKNOWN:
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

    def interpolate(self, value: Any, path: Keys) -> Any:
        """Replace ``${args.x}``: typed where it is the whole value, as text inside one."""
        if isinstance(value, dict):
            return {key: self.interpolate(item, (*path, key)) for key, item in value.items()}
        if isinstance(value, list):
            return [self.interpolate(item, (*path, index)) for index, item in enumerate(value)]
        if not isinstance(value, str) or "${" not in value:
            return value
        arguments = self.spec.arguments
        for name in _ARGUMENT.findall(value):
            if name not in arguments:
                self.value_problem(path, f"no argument '{name}' in 'args'.", name, arguments)
                return UNKNOWN
            if arguments[name] is UNKNOWN:
                return UNKNOWN
        whole = _ARGUMENT.fullmatch(value)
        if whole:
            return arguments[whole[1]]
        result = _ARGUMENT.sub(lambda match: str(arguments[match[1]]), value)
        if "${" in result:
            self.value_problem(path, f"'{value}': only ${{args.name}} can be written in braces.")
            return UNKNOWN
        return result

    def keys(self, value: Any, path: Keys, allowed: Any, what: str) -> bool:
        """Report a value that is no mapping, and keys it should not have."""
        if not isinstance(value, dict):
            self.problem(path, f"{what} must be a mapping, found {value!r}.")
            return False
        for key in value:
            if key not in allowed:
                self.problem((*path, key), f"unknown key '{key}' in {what}.", key, allowed)
        return True

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
            or (isinstance(size, str) and _NAME.match(size))
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

    def read_module(self, name: str, value: Any) -> None:
        path: Keys = ("modules", name)
        module = Module(name, "block", self.document.key_place(path))
        self.spec.modules[name] = module
        if not isinstance(value, dict):
            self.problem(path, f"module '{name}' must be a mapping such as {{type: linear, ...}}.")
            return
        kinds = [key for key in ("type", "ema_of", "frozen_from") if key in value]
        if len(kinds) != 1:
            misspelt = [key for key in value if key not in OPTIONS]
            self.problem(
                path,
                f"module '{name}' needs exactly one of 'type', 'ema_of', 'frozen_from'.",
                misspelt[0] if misspelt and not kinds else None,
                ("type", "ema_of", "frozen_from"),
            )
            return
        if kinds[0] != "type" and self.inner:
            self.problem(
                (*path, kinds[0]),
                f"a sub-graph has no '{kinds[0]}': teachers belong to the outer graph.",
            )
            return
        read = {"type": self.read_block, "ema_of": self.read_ema, "frozen_from": self.read_frozen}
        read[kinds[0]](module, value, path)

    def read_block(self, module: Module, value: dict[str, Any], path: Keys) -> None:
        name = value["type"]
        self.read_options(module, value, path)
        arguments = {key: item for key, item in value.items() if key not in ("type", *OPTIONS)}
        if name == "graph":
            self.read_sub_graph(module, arguments, path)
            return
        if name is UNKNOWN:
            return
        signature = self.catalogue.signature(name) if isinstance(name, str) else None
        if signature is None and not self.catalogue.complete:
            self.spec.unclear = True
            return
        if signature is None:
            known = [*self.catalogue.names(), "graph"]
            self.value_problem((*path, "type"), f"there is no block '{name}'.", str(name), known)
            return
        module.block, module.signature = name, signature
        for key, item in arguments.items():
            parameter = signature.parameters.get(key)
            if parameter is None:
                known = [*signature.parameters, *OPTIONS]
                self.problem((*path, key), f"block '{name}' has no argument '{key}'.", key, known)
                continue
            try:
                module.arguments[key] = convert(item, parameter.annotation)
            except Mismatch as expected:
                self.value_problem(
                    (*path, key), f"'{key}' of block '{name}' must be {expected}, found {item!r}."
                )
        for key, parameter in signature.parameters.items():
            # A misspelt argument was reported above; the missing one it stands for follows from it.
            unknown = any(given not in (*signature.parameters, *OPTIONS) for given in arguments)
            if parameter.required and key not in arguments and not unknown:
                self.problem(path, f"block '{name}' in module '{module.name}' needs '{key}'.")

    def read_sub_graph(self, module: Module, arguments: dict[str, Any], path: Keys) -> None:
        module.kind = "graph"
        file = arguments.pop("file", None)
        if not isinstance(file, str):
            self.problem(path, f"module '{module.name}' of type graph needs 'file'.")
            return
        beside = self.document.path.parent if self.document.path else None
        found = find_file(file, beside)
        where = self.document.value_place((*path, "file"))
        if found is None:
            folder = (beside or Path.cwd()) / file
            near = [str(Path(file).with_name(item.name)) for item in folder.parent.glob("*.yaml")]
            near += [
                str(Path(file).with_name(item.name))
                for parent in (beside or Path.cwd()).resolve().parents
                for item in (parent / file).parent.glob("*.yaml")
            ]
            self.problems.add(
                where,
                f"there is no sub-graph file '{file}' beside this file or in a folder above it.",
                unknown=file,
                known=near,
            )
            return
        if found.resolve() in [path.resolve() for path in self.spec.files[:1]]:
            self.problems.add(where, f"'{file}' contains itself.")
            return
        module.graph = read_graph(
            found,
            self.problems,
            args=arguments,
            args_places=lambda name: self.document.key_place((*path, name)),
            place=where,
            catalogue=self.catalogue,
            inner=True,
        )
        if module.graph is not None:
            self.spec.files += [f for f in module.graph.files if f not in self.spec.files]
            module.signature = Signature(
                {},
                {name: not item.optional for name, item in module.graph.inputs.items()},
                tuple(module.graph.outputs),
            )

    def read_options(self, module: Module, value: dict[str, Any], path: Keys) -> None:
        types = {
            "freeze": bool,
            "lr_scale": float,
            "layer_decay": float,
            "clip_group": str,
            "init_from": str,
        }
        given: dict[str, Any] = {}
        for key in OPTIONS:
            if key not in value or value[key] is None or value[key] is UNKNOWN:
                continue
            if key == "init_from" and isinstance(value[key], dict):
                given[key] = self.read_origin((*path, key))
                continue
            try:
                given[key] = convert(value[key], types[key])
            except Mismatch as expected:
                self.value_problem((*path, key), f"'{key}' must be {expected}: {value[key]!r}.")
        if given and self.inner:
            key = next(iter(given))
            self.problem((*path, key), f"'{key}' belongs to the modules of the outer graph.")
            return
        module.options = ModuleOptions(**given)
        if module.options.init_from and self.starts:
            self.referenced(module.options.init_from, (*path, "init_from"))

    def read_ema(self, module: Module, value: dict[str, Any], path: Keys) -> None:
        module.kind = "ema"
        self.keys(value, path, ("ema_of", "momentum", "statistics"), f"teacher '{module.name}'")
        statistics = value.get("statistics", module.statistics)
        if statistics in STATISTICS:
            module.statistics = statistics
        elif statistics is not UNKNOWN:
            sentence = f"'statistics' must be {' or '.join(STATISTICS)}: {statistics!r}."
            self.value_problem((*path, "statistics"), sentence, str(statistics), STATISTICS)
        module.source = value["ema_of"]
        source = self.spec.modules.get(module.source) if isinstance(module.source, str) else None
        if "momentum" not in value:
            self.problem(path, f"teacher '{module.name}' needs 'momentum'.")
        elif value["momentum"] is not UNKNOWN:
            try:
                module.momentum = Schedule.parse(value["momentum"])
                if not all(0 <= end <= 1 for end in (module.momentum.start, module.momentum.end)):
                    raise ValueError(f"momentum must be between 0 and 1: {value['momentum']!r}")
            except ValueError as error:
                self.value_problem((*path, "momentum"), f"{error}.")
        if source is None:
            names = self.section("modules")
            below = module.source in names
            self.value_problem(
                (*path, "ema_of"),
                f"module '{module.source}' must stand above its teacher '{module.name}'."
                if below
                else f"there is no module '{module.source}'.",
                None if below else str(module.source),
                names,
            )
            return
        if source.is_teacher or source.options.freeze:
            self.value_problem(
                (*path, "ema_of"),
                f"'{module.source}' is not trained, so '{module.name}' would never move.",
            )
        self.copy_structure(module, source)

    def read_frozen(self, module: Module, value: dict[str, Any], path: Keys) -> None:
        module.kind = "frozen"
        self.keys(value, path, ("frozen_from",), f"frozen module '{module.name}'")
        where: Keys = (*path, "frozen_from")
        if isinstance(value["frozen_from"], dict):
            module.source = self.read_origin(where)
        else:
            module.source = str(value["frozen_from"])
        found = self.referenced(module.source, where) if module.source is not None else None
        if found is not None:
            self.copy_structure(module, found)

    def read_origin(self, path: Keys) -> Origin | None:
        """The mapping form of a reference, if there is nothing wrong with it."""
        origin = fill(Origin, self.document, path, self.problems)
        return None if origin is None or UNKNOWN in vars(origin).values() else origin

    def referenced(self, reference: str | Origin, path: Keys) -> Module | None:
        """The module that ``stage.module`` or ``run:module`` names, if stages are known here."""
        stage, separator, name = split_reference(reference)
        if not name:
            self.value_problem(
                path,
                f"'{reference}' must be 'stage.module', such as previous.audio, or "
                "'run folder:module', or 'checkpoint:module'.",
            )
            return None
        if self.references is None:
            return None
        try:
            found = look_up(self.references, stage)
        except UserError as error:
            self.value_problem(path, f"{error}.".replace("?.", "?"))
            return None
        if found is None:
            if isinstance(stage, Origin):
                self.value_problem((*path, "file"), f"there is no checkpoint '{stage.file}'.")
            elif separator == ":":
                sentence = f"'{stage}' is neither a run folder nor a checkpoint that is there."
                self.value_problem(path, sentence)
            else:
                sentence = f"no stage '{stage}' stands before this one."
                self.value_problem(path, sentence, stage, list(self.references))
            return None
        module = found.spec.modules.get(name)
        if module is None:
            modules, inside = found.spec.modules, path
            if isinstance(stage, Origin):
                stage, inside = stage.file, (*path, "module")
            self.value_problem(inside, f"stage '{stage}' has no module '{name}'.", name, modules)
        return module

    @staticmethod
    def copy_structure(module: Module, source: Module) -> None:
        module.block, module.graph = source.block, source.graph
        module.arguments, module.signature = source.arguments, source.signature

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

    def read_source(self, text: Any, path: Keys) -> Source | None:
        if text is UNKNOWN:
            return None
        parts = text.split(".") if isinstance(text, str) else []
        if not 1 <= len(parts) <= 2 or not all(_NAME.match(part) for part in parts):
            self.value_problem(path, f"a source is 'batch.x', 'node.port' or 'node': {text!r}.")
            return None
        return Source(
            parts[0], parts[1] if len(parts) == 2 else None, self.document.value_place(path)
        )

    def read_log(self, name: str, value: Any) -> None:
        path: Keys = ("log", name)
        if isinstance(value, str):
            source = self.read_source(value, path)
            if source:
                self.spec.log[name] = Log(name, {"value": source})
            return
        ports = ("input", "prediction", "mask")
        if not self.keys(value, path, ("picture", *ports, "patch", "normalized"), f"log '{name}'"):
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
            normalized = convert(value.get("normalized", False), bool)
        except Mismatch as expected:
            self.problem(path, f"'patch' and 'normalized' of log '{name}': expected {expected}.")
            return
        if len(sources) == len(ports):
            self.spec.log[name] = Log(name, sources, "reconstruction", tuple(patch), normalized)
