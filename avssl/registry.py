"""The one flat registry of blocks: a short name for each ``nn.Module`` class a graph may use."""

import ast
import importlib
import importlib.metadata
import importlib.util
import inspect
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

from avssl.errors import UserError

T = TypeVar("T", bound=type)
_blocks: dict[str, type] = {}


def register(name: str) -> Callable[[T], T]:
    """Register a block under a short name.

    A block is an ``nn.Module`` with typed keyword arguments, typed forward ports and a class
    attribute ``outputs`` (the names of what ``forward`` returns). Example::

        @register("pool_tokens")
        class PoolTokens(nn.Module):
            outputs = ("pooled",)

            def forward(self, tokens: Tensor) -> Tensor:
                return tokens.mean(1)
    """

    def add(cls: T) -> T:
        known = _blocks.get(name)
        if known is not None and known.__qualname__ != cls.__qualname__:
            raise ValueError(f"two blocks are named '{name}': {known!r} and {cls!r}")
        if not isinstance(getattr(cls, "outputs", None), tuple):
            raise ValueError(f"block '{name}' ({cls!r}) needs a class attribute outputs: tuple")
        _blocks[name] = cls
        return cls

    return add


@dataclass(frozen=True)
class Parameter:
    """One constructor argument: its type annotation and whether it must be given."""

    annotation: Any
    required: bool


@dataclass(frozen=True)
class Signature:
    """What a block takes and gives.

    Attributes:
        parameters: constructor arguments by name.
        ports: forward ports by name, True where the port must be connected.
        outputs: names of the output ports.
        partial: ``forward`` first takes, by position alone, which outputs are read, and need not
            compute the others.
    """

    parameters: Mapping[str, Parameter]
    ports: Mapping[str, bool]
    outputs: tuple[str, ...]
    partial: bool = False


class Catalogue:
    """The blocks that a graph may name: built in, registered in Python, or from plugins.

    Signatures of built-in blocks and plugin files are read from their source text, so that a graph
    is checked without importing torch (2.6 s) and without running a plugin. ``block`` imports.
    """

    def __init__(self) -> None:
        self._signatures = dict(_builtin_signatures())
        self._modules = dict(_builtin_modules())
        self._files: dict[str, Path] = {}
        self.complete = True  # False once a plugin could not be read: names may be missing
        for name, cls in _blocks.items():
            self._signatures[name] = signature(cls)

    def add_plugin(self, plugin: str, folder: Path | None) -> None:
        """Add the blocks of a ``.py`` file (relative to ``folder``) or of an entry point.

        Raises:
            UserError: there is no such file or entry point, it cannot be read as Python, or it
                registers a name that is taken.
        """
        if not plugin.endswith(".py"):
            found = importlib.metadata.entry_points(group="avssl.blocks", name=plugin)
            if not found:
                raise UserError(
                    f"no installed package offers an entry point '{plugin}' in 'avssl.blocks'"
                )
            before = set(_blocks)
            for entry in found:
                entry.load()
            for name in set(_blocks) - before:
                self._signatures[name] = signature(_blocks[name])
            return
        path = (folder or Path.cwd()) / plugin
        if not path.is_file():
            raise UserError(f"plugin file '{path}' does not exist")
        try:
            found_here = _read_signatures(path)
        except SyntaxError as error:
            raise UserError(f"plugin '{path}' line {error.lineno}: {error.msg}") from error
        except (ValueError, IndexError) as error:
            raise UserError(
                f"plugin '{path}' cannot be read without running it ({error}): write "
                '@register("name") and outputs = ("name",) as plain literals, in UTF-8'
            ) from error
        for name, read in found_here.items():
            if name in self._modules or self._files.get(name, path) != path:
                other = self._files.get(name, "avssl itself")
                raise UserError(
                    f"plugin '{path}' registers '{name}', a name that {other} has taken: "
                    "choose another one"
                )
            self._signatures[name] = read
            self._files[name] = path

    def names(self) -> list[str]:
        """All names, sorted."""
        return sorted(self._signatures)

    def signature(self, name: str) -> Signature | None:
        """What block ``name`` takes and gives, or None if there is no such block."""
        return self._signatures.get(name)

    def block(self, name: str) -> type:
        """The class of block ``name``, imported where it was not yet.

        Raises:
            UserError: a plugin fails to import.
        """
        if name not in _blocks:
            if name in self._files:
                _import_file(self._files[name])
            else:
                importlib.import_module(self._modules[name])
        from torch import nn

        if not issubclass(_blocks[name], nn.Module):
            raise UserError(f"block '{name}' is a {_blocks[name].__name__}, which is no nn.Module")
        return _blocks[name]


def registered() -> dict[str, type]:
    """Every built-in block by name (imports them all)."""
    for module in set(_builtin_modules().values()):
        importlib.import_module(module)
    return dict(sorted(_blocks.items()))


def signature(cls: type) -> Signature:
    """Read a block's signature from its class."""
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    parameters = {
        name: Parameter(hints.get(name, Any), parameter.default is parameter.empty)
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.kind is not parameter.VAR_POSITIONAL
        and parameter.kind is not parameter.VAR_KEYWORD
    }
    forward = list(inspect.signature(cls.forward).parameters.items())[1:]  # type: ignore[attr-defined]
    ports = {
        name: parameter.default is parameter.empty
        for name, parameter in forward
        if parameter.kind is not parameter.POSITIONAL_ONLY
    }
    partial = len(ports) < len(forward)
    return Signature(parameters, ports, cls.outputs, partial)  # type: ignore[attr-defined]


@cache
def _builtin_files() -> dict[Path, str]:
    root = Path(__file__).parent
    return {
        path: f"avssl.{family}.{path.stem}"
        for family in ("blocks", "losses")
        for path in sorted((root / family).glob("*.py"))
    }


@cache
def _builtin_signatures() -> dict[str, Signature]:
    return {
        name: read for path in _builtin_files() for name, read in _read_signatures(path).items()
    }


@cache
def _builtin_modules() -> dict[str, str]:
    return {
        name: module for path, module in _builtin_files().items() for name in _read_signatures(path)
    }


def _import_file(path: Path) -> None:
    module_spec = importlib.util.spec_from_file_location(f"avssl_plugin_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        raise UserError(f"plugin '{path}' failed to import: {error!r}") from error


@cache
def _read_signatures(path: Path) -> dict[str, Signature]:
    """Signatures of the registered classes of a source file, read without running it."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    classes = {node.name: node for node in tree.body if isinstance(node, ast.ClassDef)}
    found = {}
    for node in classes.values():
        for decorator in node.decorator_list:
            if (
                isinstance(decorator, ast.Call)
                and getattr(decorator.func, "id", getattr(decorator.func, "attr", "")) == "register"
            ):
                found[ast.literal_eval(decorator.args[0])] = _read_class(node, classes)
    return found


def _read_class(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef]) -> Signature:
    init, forward = _member(node, classes, "__init__"), _member(node, classes, "forward")
    outputs = _member(node, classes, "outputs")
    parameters = {
        argument.arg: Parameter(_annotation(argument.annotation), required)
        for argument, required in _arguments(init)
    }
    ahead = [] if forward is None else forward.args.posonlyargs[1:]
    ports = {
        argument.arg: required
        for argument, required in _arguments(forward)
        if argument not in ahead
    }
    return Signature(
        parameters, ports, ast.literal_eval(outputs) if outputs else (), partial=bool(ahead)
    )


def _member(node: ast.ClassDef, classes: Mapping[str, ast.ClassDef], name: str) -> Any:
    """A method or the value of a class attribute, from the class or its bases in the file."""
    for item in node.body:
        if isinstance(item, ast.FunctionDef) and item.name == name:
            return item
        targets = item.targets if isinstance(item, ast.Assign) else [getattr(item, "target", None)]
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return item.value  # type: ignore[attr-defined]
    for base in node.bases:
        if isinstance(base, ast.Name) and base.id in classes:
            return _member(classes[base.id], classes, name)
    return None


def _arguments(function: ast.FunctionDef | None) -> list[tuple[ast.arg, bool]]:
    """Arguments after ``self``, each with whether it must be given."""
    if function is None:
        return []
    positional = function.args.posonlyargs + function.args.args
    first_default = len(positional) - len(function.args.defaults)
    return [
        (argument, index < first_default) for index, argument in enumerate(positional) if index
    ] + [
        (argument, default is None)
        for argument, default in zip(
            function.args.kwonlyargs, function.args.kw_defaults, strict=True
        )
    ]


def _annotation(node: ast.expr | None) -> Any:
    """Evaluate an annotation made of the plain types that YAML can express; others are Any."""
    if node is None:
        return Any
    known = {"int": int, "float": float, "bool": bool, "str": str, "list": list, "dict": dict}
    allowed = {**known, "tuple": tuple, "Literal": typing.Literal, "Any": Any, "None": None}
    if any(isinstance(part, ast.Name) and part.id not in allowed for part in ast.walk(node)):
        return Any
    if not all(isinstance(part, _ANNOTATION_PARTS) for part in ast.walk(node)):
        return Any
    code = compile(ast.Expression(node), "<annotation>", "eval")
    return eval(code, {"__builtins__": {}}, allowed)  # names and node kinds are checked above


_ANNOTATION_PARTS = (
    ast.Name,
    ast.Load,
    ast.Constant,
    ast.Subscript,
    ast.Tuple,
    ast.BinOp,
    ast.BitOr,
)
