"""The run folder: everything needed to load, continue, evaluate and export a run, and no absolute
path.

::

    config.yaml     the experiment, defaults and overrides merged in
    graphs/ ...     the graph files, placed to each other as they were
    metrics.jsonl   one line per step and per probe
    tensorboard/    the same figures
    checkpoints/    <stage>/step-000123/
    pictures/  card.md  results.json
"""

from __future__ import annotations

import errno
import json
import os
from contextlib import contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from avssl.errors import UserError
from avssl.files import half_written, locked, metrics_rows, write_whole

if TYPE_CHECKING:
    from collections.abc import Container, Iterable, Iterator

    from avssl.data.config import DataConfig
    from avssl.train.config import Experiment

# What may differ between the command that started a run and the one that continues it.
HARMLESS = frozenset(
    {
        "run", "name", "data.cache", "data.workers", "data.prefetch", "data.time_limit",
        "data.max_bad_share", "train.save_every", "train.keep", "train.log_every", "train.device",
        "train.threads", "train.parallel", "train.attention", "probe.every", "probe.pictures",
        "probe.final", "speech",
    }
)  # fmt: skip

# made from the training texts before the first step: units, and a checksum of the texts
UNITS, TEXTS = "units.model", "units.sha256"
HALF_UNITS = ".units.*.tmp"  # while a process makes them


class RunFolder:
    """One run's folder; writing is for rank 0 only."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.metrics = path / "metrics.jsonl"
        self.pictures = path / "pictures"
        self.card = path / "card.md"  # written last

    def checkpoints(self, stage: str) -> Path:
        """Where the checkpoints of a stage instance lie."""
        return self.path / "checkpoints" / stage

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes out of the folder, which is made if it is not there.

        Raises:
            UserError: the path is not a folder's, or another process trains here.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError, ValueError) as error:
            raise UserError(f"run={self.path} is not a folder: give another one.") from error
        except OSError as error:
            if error.errno != errno.ENAMETOOLONG:
                raise
            raise UserError("the name of the run folder is too long: give another one.") from error
        busy = (
            f"another process trains in {self.path}: wait for it, or give another run folder with "
            "run=..."
        )
        with locked(self.path, busy):
            yield

    def claim(self, experiment: Experiment, graphs: dict[str, Path], files: Iterable[Path]) -> None:
        """Write config.yaml and the graph files, or make sure that those there are the same.

        Args:
            experiment: the merged configuration.
            graphs: stage -> its graph file.
            files: all graph files, sub-graphs included.

        Raises:
            UserError: the folder belongs to another configuration; names what differs.
        """
        placed = _places(files)
        config = portable(
            experiment, {stage: placed[path.resolve()].as_posix() for stage, path in graphs.items()}
        )
        stored = self.path / "config.yaml"
        earlier = _read_yaml(stored) if stored.is_file() else None
        # a run that ended before its first checkpoint, most likely by a mistake, may start anew
        fresh = (
            earlier is not None
            and earlier.get("run") == "."
            and earlier.keys() == config.keys()
            and not any(self.path.glob("checkpoints/*/step-*"))
        )
        if fresh:
            write_whole(stored, yaml.safe_dump(config, sort_keys=False))
        elif earlier is not None:
            different = [*differences(earlier, config), *self._changed_files(placed)]
            if different:
                more = f", and {len(different) - 6} more" if len(different) > 6 else ""
                raise UserError(
                    f"the run folder {self.path} holds another configuration: "
                    f"{'; '.join(different[:6])}{more}. "
                    "Give another folder with run=..., or remove this one."
                )
        elif self.path.is_dir() and any(
            item.name not in (half_written(stored).name, UNITS, TEXTS)
            and not item.match(HALF_UNITS)
            for item in self.path.iterdir()
        ):
            raise UserError(
                f"{self.path} is not empty and not a run folder: give another one with run=..."
            )
        else:
            write_whole(stored, yaml.safe_dump(config, sort_keys=False))
        for source, target in placed.items():
            if fresh or not (self.path / target).is_file():  # else new, or killed before
                write_whole(self.path / target, source.read_text(encoding="utf-8"))

    def _changed_files(self, placed: dict[Path, Path]) -> Iterator[str]:
        for source, target in placed.items():
            copy = self.path / target
            if copy.is_file() and copy.read_bytes() != source.read_bytes():
                yield from _first_difference(target, copy, source)

    def keep_metrics(self, stage: str, step: int) -> None:
        """Drop the lines of a stage past its checkpoint of `step`; all of them where it is 0.

        A half-written last line, left by a killed process, goes too.
        """
        if not self.metrics.is_file():
            return
        last = step if step else -1
        kept = [
            row
            for row in metrics_rows(self.metrics)
            if row["stage"] != stage or row["step"] <= last
        ]
        write_whole(self.metrics, "".join(f"{json.dumps(row)}\n" for row in kept))


def portable(experiment: Experiment, graphs: dict[str, str]) -> dict[str, Any]:
    """The merged configuration as plain values, paths relative to the run folder."""
    config = asdict(experiment)
    config["run"] = "."
    config["data"]["cache"] = None
    if not experiment.data.source.startswith("corpus:"):
        source = os.path.expanduser(experiment.data.source)
        config["data"]["source"] = os.path.relpath(source, experiment.run)
    for recipe in config["data"]["inputs"].values():
        if recipe.get("model") is not None:  # units of text
            recipe["model"] = os.path.relpath(os.path.expanduser(recipe["model"]), experiment.run)
    for stage, graph in graphs.items():
        config["stages"][stage]["graph"] = graph
        cache = config["stages"][stage]["teacher_cache"]
        if cache is not None:
            cache["folder"] = os.path.relpath(os.path.expanduser(cache["folder"]), experiment.run)
    return config


def data_of(folder: Path, config: Experiment) -> DataConfig:
    """The data of a run as its folder names them, found from here."""
    source = config.data.source
    if not source.startswith("corpus:"):
        source = os.path.normpath(folder / source)
    return replace(config.data, source=source)


def _read_yaml(path: Path) -> dict[str, Any]:
    """A file of a run folder as a mapping."""
    try:
        value = yaml.safe_load(path.read_text(encoding="utf-8"))
        if isinstance(value, dict):
            return value
        reason = "it is not a mapping"
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).split("\n")[0]
    raise UserError(f"{path} is damaged ({reason}); give another run folder with run=...")


def _places(files: Iterable[Path]) -> dict[Path, Path]:
    """Where each graph file goes in the run folder, so that they find each other as before."""
    resolved = [path.resolve() for path in files]
    root = Path(os.path.commonpath([path.parent for path in resolved]))
    inner = {path: path.relative_to(root) for path in resolved}
    if any(len(path.parts) == 1 for path in inner.values()):
        inner = {path: Path("graphs") / place for path, place in inner.items()}
    return inner


def differences(
    earlier: Any, now: Any, key: str = "", *, harmless: Container[str] = HARMLESS
) -> Iterator[str]:
    """One sentence for each value in which two configurations differ.

    key: where the two stand in the file. harmless: keys that may differ.
    """
    if key in harmless:
        return
    if isinstance(earlier, dict) and isinstance(now, dict):
        for name in {**earlier, **now}:
            inner = f"{key}.{name}" if key else str(name)
            yield from differences(earlier.get(name), now.get(name), inner, harmless=harmless)
    elif earlier != now:
        yield f"{key} is {earlier} there and {now} here"


def _first_difference(target: Path, copy: Path, source: Path) -> Iterator[str]:
    """Compare two graph files by content, comments and layout aside."""
    if target.suffix in (".yaml", ".yml"):
        yield from (
            f"{target.as_posix()}: {text}"
            for text in differences(_read_yaml(copy), _read_yaml(source))
        )
    else:
        yield f"{target.as_posix()} has another content"
