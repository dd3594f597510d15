"""Where figures go: metrics.jsonl and TensorBoard."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch.utils.tensorboard import SummaryWriter

if TYPE_CHECKING:
    from avssl.train.run_folder import RunFolder


class MetricsWriter:
    """Appends rows of one stage instance; use as a context manager. Writes nothing on ranks other
    than 0.

    Args:
        folder: the run folder.
        stage: name of the stage instance.
        step: where it starts; TensorBoard drops later points that a killed process left.
        active: False on every rank but 0.
    """

    def __init__(self, folder: RunFolder, stage: str, *, step: int, active: bool) -> None:
        self.stage = stage
        self.file = open(folder.metrics, "a", encoding="utf-8") if active else None
        self.board = (
            SummaryWriter(
                str(folder.path / "tensorboard" / stage), purge_step=step + 1 if step else 0
            )
            if active
            else None
        )

    def __enter__(self) -> MetricsWriter:
        return self

    def __exit__(self, *_: object) -> None:
        if self.file is not None and self.board is not None:
            self.file.close()
            self.board.close()

    def write(
        self,
        step: int,
        figures: dict[str, float],
        *,
        times: dict[str, float] | None = None,
        bad: Sequence[tuple[str, str]] = (),
    ) -> None:
        """Append one line for `step` (steps done so far); `times` are what differs between two
        equal runs, `bad` the clips that could not be read, with their reasons."""
        if self.file is None or self.board is None:
            return
        finite = {k: v if math.isfinite(v) else None for k, v in figures.items()}  # JSON has no nan
        row: dict[str, Any] = {"stage": self.stage, "step": step, **finite}
        if times is not None:
            row["time"] = {name: round(value, 5) for name, value in times.items()}
        if bad:
            row["unreadable_clips"] = list(bad)
        self.file.write(json.dumps(row) + "\n")
        self.file.flush()
        for name, value in {**figures, **(times or {})}.items():
            self.board.add_scalar(name, value, step)
