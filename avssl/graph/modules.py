"""Reading the modules of a graph file: blocks, sub-graphs, teachers, and their options."""

from pathlib import Path
from typing import Any, Literal

from avssl.errors import UserError
from avssl.graph.schema import Mismatch, convert, fill
from avssl.graph.sections import Sections
from avssl.graph.source import UNKNOWN, Keys, find_file
from avssl.graph.spec import (
    STATISTICS,
    Module,
    ModuleOptions,
    Origin,
    look_up,
    split_reference,
)
from avssl.registry import Signature
from avssl.schedules import Schedule

OPTIONS = ("freeze", "lr_scale", "layer_decay", "layer_ends", "clip_group", "init_from")


class ModuleReader(Sections):
    """Reads the section ``modules``."""

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
        from avssl.graph.reader import read_graph  # which reads modules by this

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
                partial=True,
            )

    def read_options(self, module: Module, value: dict[str, Any], path: Keys) -> None:
        types = {
            "freeze": bool,
            "lr_scale": float,
            "layer_decay": float,
            "layer_ends": Literal["own", "joined"],
            "clip_group": str,
            "init_from": str,
        }
        given: dict[str, Any] = {}
        for key in OPTIONS:
            if key not in value or value[key] is None or value[key] is UNKNOWN:
                continue
            if key == "init_from":
                value = {**value, key: _with_colon(value[key])}
            if key == "init_from" and isinstance(value[key], dict):
                given[key] = self.read_origin((*path, key))
                continue
            try:
                given[key] = convert(value[key], types[key])
            except Mismatch as expected:
                self.value_problem((*path, key), f"'{key}' must be {expected}: {value[key]!r}.")
        if given.get("lr_scale", 1.0) <= 0:
            sentence = f"'lr_scale' must be above 0: {given['lr_scale']}; freeze stops learning."
            self.value_problem((*path, "lr_scale"), sentence)
        if not 0 < given.get("layer_decay", 1.0) <= 1:
            sentence = f"'layer_decay' must be above 0, at most 1: {given['layer_decay']}."
            self.value_problem((*path, "layer_decay"), sentence)
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
        reference = _with_colon(value["frozen_from"])
        if isinstance(reference, dict):
            module.source = self.read_origin(where)
        else:
            module.source = str(reference)
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
        if not name or not stage or (separator == "." and "/" in str(reference)):
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
                step = Path(str(stage))
                if step.name.startswith("step-") and step.parent.parent.name == "checkpoints":
                    sentence += (
                        " Of a stage of a run the newest intact step is taken: write "
                        f"'{step.parent}:{name}'."
                    )
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


def _with_colon(reference: Any) -> Any:
    """A reference as it was written: YAML reads ``run folder:``, without a module, as a mapping."""
    if isinstance(reference, dict) and list(reference.values()) == [None]:
        return f"{next(iter(reference))}:"
    return reference
