"""YAML with places: every key and value knows its ``file:line:col``, mistakes are collected."""

import difflib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from avssl.errors import ConfigError

Keys = tuple[str | int, ...]
DEEPEST = 50  # nested brackets
MOST_VALUES = 100_000  # of one file, aliases counted as often as they stand


class _Unknown:
    """Stands for a value that was already reported, so that nothing built on it is reported too."""

    def __repr__(self) -> str:
        return "<unknown>"


UNKNOWN = _Unknown()


@dataclass(frozen=True, order=True)
class Place:
    """Where something stands: line and column count from 1; line 0 is not in a file."""

    file: str
    line: int = 0
    column: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}" if self.line else self.file


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that ``name`` was probably meant to be, such as `video_init` for `init`.

    Short names may differ more.
    """
    known = list(known)
    longer = [other for other in known if name in other.split("_")]
    cutoff = 0.6 if len(name) > 3 else 0.5
    close = longer or difflib.get_close_matches(name, known, n=1, cutoff=cutoff)
    return close[0] if close else None


@dataclass
class Problems:
    """Mistakes found so far; one mistake in a file used twice is kept once."""

    found: dict[tuple[Place, str], None] = field(default_factory=dict)

    def add(
        self,
        place: Place,
        sentence: str,
        *,
        unknown: str | None = None,
        known: Iterable[str] = (),
    ) -> None:
        """Record a mistake; with ``unknown`` and ``known`` names a suggestion is added."""
        if unknown is not None:
            known = list(known)
            if close := nearest(unknown, known):
                sentence += f" Did you mean '{close}'?"
            elif known := sorted(known):
                shown = ", ".join(known[:12]) + (", ..." if len(known) > 12 else "")
                sentence += f" Known: {shown}."
        self.found[(place, sentence)] = None

    def messages(self) -> list[str]:
        """All mistakes in file order, as ``file:line:col: sentence``."""
        return [f"{place}: {sentence}" for place, sentence in sorted(self.found)]

    def raise_if_any(self) -> None:
        """Raise ConfigError with all mistakes, if there are some."""
        if self.found:
            raise ConfigError(self.messages())


@dataclass
class Document:
    """A configuration as plain Python values, with the place of each key and value."""

    data: dict[str, Any]
    name: str
    path: Path | None = None
    keys: dict[Keys, Place] = field(default_factory=dict)
    values: dict[Keys, Place] = field(default_factory=dict)

    def key_place(self, path: Keys) -> Place:
        """Where the key at ``path`` stands (its nearest parent if it is not there)."""
        return self._nearest(self.keys, path)

    def value_place(self, path: Keys) -> Place:
        """Where the value at ``path`` stands (its nearest parent if it is not there)."""
        return self._nearest(self.values, path)

    def _nearest(self, places: dict[Keys, Place], path: Keys) -> Place:
        while path:
            if path in places:
                return places[path]
            path = path[:-1]
        return Place(self.name, 1, 1) if self.path else Place(self.name)

    def get(self, path: Keys, default: Any = None) -> Any:
        """The value at ``path``, or ``default``."""
        value: Any = self.data
        for key in path:
            if not isinstance(value, dict) or key not in value:
                return default
            value = value[key]
        return value

    def rename(self, section: str, meant: str) -> None:
        """Give a section of the top another name; its places stay."""
        self.data[meant] = self.data.pop(section)
        for table in (self.keys, self.values):
            for path in [path for path in table if path and path[0] == section]:
                table[(meant, *path[1:])] = table.pop(path)

    def override(self, assignments: Sequence[str], problems: Problems) -> None:
        """Apply ``key.sub=value`` assignments of a command line; values are read as YAML."""
        for assignment in assignments:
            place = Place(f"command line '{assignment}'")
            dotted, equals, text = assignment.partition("=")
            path = tuple(dotted.split("."))
            if not equals or not all(path):
                problems.add(place, "expected key=value, for example train.lr=1e-3.")
                continue
            value = _read_value(text, place, problems)
            node = self.data
            for position, key in enumerate(path[:-1]):
                inner = node.setdefault(key, {})
                if inner is None:
                    inner = node[key] = {}
                if not isinstance(inner, dict):
                    name = ".".join(path[: position + 1])
                    problems.add(place, f"'{name}' is {inner!r}, not a mapping.")
                    break
                self.keys.setdefault(path[: position + 1], place)
                node = inner
            else:
                node[path[-1]] = value
                for table in (self.keys, self.values):
                    for known in [known for known in table if known[: len(path)] == path]:
                        del table[known]
                    table[path] = place


class _Loader(yaml.SafeLoader):
    """YAML 1.2 scalars: ``1e-3`` is a number; ``on``, ``2024-01-01`` and ``1:30`` are words."""


_Loader.yaml_implicit_resolvers = {
    first: [
        (tag, pattern)
        for tag, pattern in resolvers
        if not tag.endswith((":bool", ":float", ":int", ":timestamp"))
    ]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"^[-+]?(?:0|[1-9]\d*)$"), list("-+0123456789")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|false|False)$"), list("tTfF")
)
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"^[-+]?(?:(?:\d+\.\d*|\.\d+)(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+|\.inf|\.nan)$"),
    list("-+0123456789."),
)


def read_yaml(path: Path, problems: Problems, *, place: Place | None = None) -> Document | None:
    """Read a YAML file whose top is a mapping; syntax errors and double keys go to ``problems``.

    Args:
        path: the file.
        problems: collects what is wrong.
        place: where the file was named, for the message when it cannot be read.
    """
    name = display_path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        problems.add(place or Place(name), f"cannot read '{name}': {error.strerror}.")
        return None
    except UnicodeDecodeError:
        problems.add(place or Place(name), f"'{name}' is not a text file in UTF-8.")
        return None
    document = Document({}, name, path)
    start = Place(name, 1, 1)
    root, value = _parse(text, document, start, problems)
    if root is None:
        return None
    if not isinstance(root, yaml.MappingNode):
        problems.add(_start(name, root), "expected a mapping of sections at the top.")
        return None
    document.data = value
    return document


def _read_value(text: str, place: Place, problems: Problems) -> Any:
    """Read the value of a command-line assignment; what is not YAML is taken as a word."""
    document, found = Document({}, place.file), Problems()
    root, value = _parse(text, document, place, found)
    if root is None:
        return text if text else None
    problems.found.update({(place, sentence): None for _, sentence in found.found})
    return value


def _parse(
    text: str, document: Document, start: Place, problems: Problems
) -> tuple[yaml.Node | None, Any]:
    """Parse YAML text; (None, None) after a mistake that leaves nothing to read."""
    depth = deepest = 0
    for character in text:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    if deepest > DEEPEST:
        problems.add(start, f"brackets are nested more than {DEEPEST} deep.")
        return None, None
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
            if root is None:
                problems.add(start, "the file is empty.")
                return None, None
            return root, _Converter(document, loader, problems).convert(root, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = Place(document.name, mark.line + 1, mark.column + 1) if mark else start
        problems.add(where, f"not valid YAML: {error.problem or error.context}.")
    except (yaml.YAMLError, RecursionError) as error:
        reason = str(error).split("\n")[0].rstrip(".")
        problems.add(start, f"not valid YAML: {reason}.")
    except _TooLarge as error:
        problems.add(start, str(error))
    return None, None


def find_file(name: str, beside: Path | None) -> Path | None:
    """Look up a file that a YAML file names: beside it, else in the nearest parent folder.

    Args:
        name: relative path with forward slashes, or an absolute one.
        beside: folder of the file that names it; the working folder when None.
    """
    start = (beside or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        candidate = folder / name
        if candidate.is_file():
            return candidate
    return None


def display_path(path: Path) -> str:
    """The path as a user would type it: relative to the working folder where it lies below."""
    try:
        return str(path.resolve().relative_to(Path.cwd().resolve()))
    except ValueError:
        return str(path)


def _start(name: str, node: yaml.Node) -> Place:
    return Place(name, node.start_mark.line + 1, node.start_mark.column + 1)


class _TooLarge(Exception):
    """A file means more values than a configuration can have."""


class _Converter:
    """Turns YAML nodes into plain values, recording the place of each key and value."""

    def __init__(self, document: Document, loader: _Loader, problems: Problems) -> None:
        self.document, self.loader, self.problems = document, loader, problems
        self.open: set[int] = set()  # nodes being converted, to find aliases of themselves
        self.count = 0

    def convert(self, node: yaml.Node, path: Keys) -> Any:
        place = self.document.values[path] = _start(self.document.name, node)
        self.count += 1
        if self.count > MOST_VALUES:
            raise _TooLarge(f"aliases make this more than {MOST_VALUES} values.")
        if id(node) in self.open:
            self.problems.add(place, "an alias refers to itself.")
            return UNKNOWN
        standard = "tag:yaml.org,2002:"
        if not node.tag.startswith(standard) or node.tag.startswith(f"{standard}python"):
            self.problems.add(place, f"tag '{node.tag}' is not allowed: plain values only.")
            return UNKNOWN
        self.open.add(id(node))
        try:
            if isinstance(node, yaml.SequenceNode):
                return [self.convert(item, (*path, i)) for i, item in enumerate(node.value)]
            if isinstance(node, yaml.MappingNode):
                return self.mapping(node, path)
            return self.scalar(node, place)
        finally:
            self.open.discard(id(node))

    def scalar(self, node: yaml.Node, place: Place) -> Any:
        try:
            return self.loader.construct_object(node)
        except (ValueError, KeyError, OverflowError, yaml.YAMLError):
            kind = node.tag.rpartition(":")[2]
            self.problems.add(place, f"'{node.value}' is not of the type '{kind}'.")
            return UNKNOWN

    def mapping(self, node: yaml.MappingNode, path: Keys) -> dict[str, Any]:
        result: dict[str, Any] = {}
        keys = self.document.keys
        for key_node, value_node in node.value:
            place = _start(self.document.name, key_node)
            plain = isinstance(key_node, yaml.ScalarNode)
            key = self.scalar(key_node, place) if plain else None
            if not isinstance(key, str):
                if key is not UNKNOWN:
                    self.problems.add(place, f"key {key!r} is not a word; put it in quotes.")
                continue
            if key in result:
                first = keys[(*path, key)]
                self.problems.add(place, f"key '{key}' stands twice; first in line {first.line}.")
                continue
            keys[(*path, key)] = place
            result[key] = self.convert(value_node, (*path, key))
        return result
