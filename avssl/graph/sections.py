"""What reading any section of a graph file needs: places of mistakes, arguments, sources."""

import re
from collections.abc import Mapping
from typing import Any

from avssl.graph.source import UNKNOWN, Document, Keys, Place, Problems
from avssl.graph.spec import GraphSpec, Reference, Source
from avssl.registry import Catalogue

NAME = re.compile(r"^[A-Za-z_]\w*$")
_ARGUMENT = re.compile(r"\$\{args\.([A-Za-z_]\w*)\}")


class Sections:
    """A document on its way to a `GraphSpec`; what is wrong goes to ``problems``."""

    spec: GraphSpec

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
            if not NAME.match(key):
                self.problem((name, key), f"'{key}' is not a name: use letters, digits and '_'.")
        return value

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

    def read_source(self, text: Any, path: Keys) -> Source | None:
        if text is UNKNOWN:
            return None
        parts = text.split(".") if isinstance(text, str) else []
        if not 1 <= len(parts) <= 2 or not all(NAME.match(part) for part in parts):
            self.value_problem(path, f"a source is 'batch.x', 'node.port' or 'node': {text!r}.")
            return None
        return Source(
            parts[0], parts[1] if len(parts) == 2 else None, self.document.value_place(path)
        )
