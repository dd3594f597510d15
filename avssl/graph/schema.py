"""Types as schema: YAML values held against annotations of blocks and dataclasses."""

import dataclasses
import sys
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from avssl.graph.source import UNKNOWN, Document, Keys, Problems

T = TypeVar("T")
_NAMES = {int: "a whole number", float: "a number", bool: "true or false", str: "a word"}


class Mismatch(Exception):
    """A value does not have the annotated type; the text says what was expected."""


def convert(value: Any, annotation: Any) -> Any:
    """Return ``value`` in the annotated type (whole numbers become floats where asked).

    Raises:
        Mismatch: the value has another type; its text is what was expected.
    """
    if value is UNKNOWN or annotation is Any:
        return value
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        for option in arguments:
            try:
                return convert(value, option)
            except Mismatch:
                pass
        raise Mismatch(describe(annotation))
    if origin is typing.Literal:
        if any(value == choice and type(value) is type(choice) for choice in arguments):
            return value
    elif origin in (list, tuple):
        if isinstance(value, (list, tuple)):
            try:
                return origin(convert(item, arguments[0]) for item in value)
            except Mismatch:
                pass
    elif origin is dict:
        if isinstance(value, dict):
            try:
                return {key: convert(item, arguments[1]) for key, item in value.items()}
            except Mismatch:
                pass
    elif annotation is float:
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if abs(value) > sys.float_info.max or value != value:
                raise Mismatch("a finite number")
            return float(value)
    elif annotation is int:
        if isinstance(value, int) and not isinstance(value, bool):
            return value
    elif annotation is type(None) or annotation is None:
        if value is None:
            return None
    elif isinstance(value, annotation):
        return value
    raise Mismatch(describe(annotation))


def describe(annotation: Any) -> str:
    """An annotation in words, for messages."""
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(describe(option) for option in arguments)
    if origin is typing.Literal:
        return "one of " + ", ".join(str(choice) for choice in arguments)
    if origin in (list, tuple):
        return f"a list, each {describe(arguments[0])}"
    if origin is dict:
        return f"a mapping, each {describe(arguments[1])}"
    if annotation is type(None):
        return "null"
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def fill(cls: type[T], document: Document, path: Keys, problems: Problems) -> T | None:
    """Make a dataclass from the mapping at ``path``; everything wrong goes to ``problems``.

    Nested dataclasses, ``X | None``, ``dict[str, X]`` and unions of dataclasses that differ in a
    ``type: Literal[...]`` field are followed. A missing mapping counts as an empty one. Values are
    checked by the class itself in ``__post_init__``, which raises ValueError with a sentence.

    Returns:
        The instance, or None if there was a problem.
    """
    before = len(problems.found)
    value = document.get(path)
    where = ".".join(str(key) for key in path)
    if value is None:
        value = {}
    if not isinstance(value, dict):
        problems.add(document.value_place(path), f"'{where}' must be a mapping, found {value!r}.")
        return None
    fields = {item.name: item for item in dataclasses.fields(cls) if item.init}  # type: ignore[arg-type]
    hints = typing.get_type_hints(cls)
    arguments: dict[str, Any] = {}
    for key in value:
        if key not in fields:
            problems.add(
                document.key_place((*path, key)),
                f"unknown key '{key}' in '{where}'." if where else f"unknown key '{key}'.",
                unknown=key,
                known=fields,
            )
            continue
        arguments[key] = _fill_value(hints[key], document, (*path, key), problems)
    for name, item in fields.items():
        no_default = (
            item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        )
        if no_default and name not in value:
            problems.add(document.key_place(path), f"'{where}' needs a value for '{name}'.")
    if len(problems.found) > before:
        return None
    try:
        return cls(**arguments)
    except ValueError as error:
        problems.add(document.key_place(path), f"{where}: {error}" if where else str(error))
        return None


def _fill_value(annotation: Any, document: Document, path: Keys, problems: Problems) -> Any:
    value = document.get(path)
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    options = arguments if origin in (typing.Union, types.UnionType) else (annotation,)
    classes = [option for option in options if dataclasses.is_dataclass(option)]
    if value is None and type(None) in options:
        return None
    if classes:
        chosen = _choose(classes, document, path, problems)
        return fill(chosen, document, path, problems) if chosen else None
    if origin is dict and isinstance(value, dict) and _holds_dataclass(arguments[1]):
        return {key: _fill_value(arguments[1], document, (*path, key), problems) for key in value}
    try:
        return convert(value, annotation)
    except Mismatch as expected:
        name = ".".join(str(key) for key in path)
        problems.add(document.value_place(path), f"'{name}' must be {expected}, found {value!r}.")
        return None


def _holds_dataclass(annotation: Any) -> bool:
    return any(
        dataclasses.is_dataclass(option) for option in (annotation, *typing.get_args(annotation))
    )


def _choose(classes: list[Any], document: Document, path: Keys, problems: Problems) -> type | None:
    """Pick the dataclass whose ``type`` field names the value's ``type``."""
    if len(classes) == 1:
        return classes[0]
    by_name: Mapping[str, Any] = {
        name: cls for cls in classes for name in typing.get_args(typing.get_type_hints(cls)["type"])
    }
    name = document.get((*path, "type"))
    if name in by_name:
        return by_name[name]
    where = ".".join(str(key) for key in path)
    if name is None:
        choices = ", ".join(by_name)
        problems.add(document.key_place(path), f"'{where}' needs a 'type': one of {choices}.")
    else:
        problems.add(
            document.value_place((*path, "type")),
            f"'{where}.type' is {name!r}.",
            unknown=str(name),
            known=by_name,
        )
    return None
