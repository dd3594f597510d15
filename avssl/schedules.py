"""Values that change over a stage: loss weights, teacher momentum."""

import math
from dataclasses import dataclass
from typing import Any

KINDS = ("linear", "cosine")


@dataclass(frozen=True)
class Schedule:
    """A number, or a number that moves from ``start`` to ``end`` over the stage.

    Example: ``Schedule.parse(0.1)`` is constant;
    ``Schedule.parse({"kind": "cosine", "start": 0.99, "end": 1})`` moves.
    """

    kind: str
    start: float
    end: float

    @classmethod
    def parse(cls, value: Any) -> "Schedule":
        """Make a schedule from its YAML form.

        Raises:
            ValueError: the form is neither a number nor ``{kind, start, end}``.
        """
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            return cls("constant", float(value), float(value))
        if not isinstance(value, dict) or set(value) != {"kind", "start", "end"}:
            raise ValueError(
                f"expected a number or {{kind: linear|cosine, start: x, end: y}}, found {value!r}"
            )
        if value["kind"] not in KINDS:
            raise ValueError(f"schedule kind must be one of {', '.join(KINDS)}: {value['kind']!r}")
        for key in ("start", "end"):
            if isinstance(value[key], bool) or not isinstance(value[key], (int, float)):
                raise ValueError(f"schedule {key} must be a number, found {value[key]!r}")
        return cls(value["kind"], float(value["start"]), float(value["end"]))

    def __call__(self, progress: float) -> float:
        """The value at ``progress`` of the stage, 0 at its first step and 1 at its end."""
        if self.kind == "linear":
            return self.start + (self.end - self.start) * progress
        if self.kind == "cosine":
            return self.end + (self.start - self.end) * (1 + math.cos(math.pi * progress)) / 2
        return self.start

    @property
    def always_zero(self) -> bool:
        """True where the value is 0 for the whole stage."""
        return self.start == 0 and self.end == 0
