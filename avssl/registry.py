"""The one flat registry of blocks: a short name for each ``nn.Module`` class a graph may use."""

import importlib
import importlib.metadata
import importlib.util
import inspect
import pkgutil
import typing
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from avssl.errors import UserError

T = TypeVar("T", bound=type)
_blocks: dict[str, type] = {}


def register(name: str) -> Callable[[T], T]:
    """Register a block under a short name.

    A block is an ``nn.Module`` with typed keyword arguments, typed forward ports and a class
    attribute ``outputs`` (the names of what ``forward`` returns). Example::

        @register("mean_pool")
        class MeanPool(nn.Module):
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


@lru_cache(maxsize=1)
def load_builtin() -> None:
    """Import every module of ``avssl.blocks`` and ``avssl.losses``, which fills the registry."""
    for package_name in ("avssl.blocks", "avssl.losses"):
        package = importlib.import_module(package_name)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package_name}.{module.name}")


def load_plugin(path: Path) -> None:
    """Import one user file that registers blocks.

    Raises:
        UserError: the file does not exist or fails to import.
    """
    if not path.is_file():
        raise UserError(f"plugin file '{path}' does not exist")
    module_spec = importlib.util.spec_from_file_location(f"avssl_plugin_{path.stem}", path)
    assert module_spec is not None and module_spec.loader is not None
    module = importlib.util.module_from_spec(module_spec)
    try:
        module_spec.loader.exec_module(module)
    except Exception as error:
        raise UserError(f"plugin '{path}' failed to import: {error!r}") from error


def load_entry_point(name: str) -> None:
    """Import the Python entry point ``name`` of group ``avssl.blocks``.

    Raises:
        UserError: no installed package offers that entry point.
    """
    found = importlib.metadata.entry_points(group="avssl.blocks", name=name)
    if not found:
        raise UserError(f"no installed package offers an entry point '{name}' in 'avssl.blocks'")
    for entry in found:
        entry.load()


def names() -> list[str]:
    """All registered names, sorted."""
    load_builtin()
    return sorted(_blocks)


def lookup(name: str) -> type | None:
    """The class registered under ``name``, or None."""
    load_builtin()
    return _blocks.get(name)


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
    """

    parameters: Mapping[str, Parameter]
    ports: Mapping[str, bool]
    outputs: tuple[str, ...]


@lru_cache(maxsize=None)
def signature(cls: type) -> Signature:
    """Read a block's signature, which is its schema."""
    hints = typing.get_type_hints(cls.__init__)  # type: ignore[misc]
    own_init = cls.__init__ is not _plain_init()  # type: ignore[misc]
    parameters = {
        name: Parameter(hints.get(name, Any), parameter.default is parameter.empty)
        for name, parameter in list(inspect.signature(cls.__init__).parameters.items())[1:]  # type: ignore[misc]
        if own_init
    }
    forward = inspect.signature(cls.forward).parameters  # type: ignore[attr-defined]
    ports = {
        name: parameter.default is parameter.empty for name, parameter in list(forward.items())[1:]
    }
    return Signature(parameters, ports, cls.outputs)  # type: ignore[attr-defined]


def _plain_init() -> Any:
    from torch import nn

    return nn.Module.__init__
