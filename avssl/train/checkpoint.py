"""Checkpoints: folders that are either complete or not there, gathered from any number of
processes.

``checkpoints/<stage>/step-000123/`` holds ``model.safetensors`` (the whole graph, teachers
included), ``optimizer.safetensors`` (tensors named ``<parameter>/<state>``) and ``state.json``
(step, and size and SHA-256 of the two files). A folder is written under a temporary name, flushed
to disk and renamed, so a process killed at any moment leaves the earlier checkpoints as they were.
Nothing is pickled.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from avssl.errors import UserError
from avssl.ops.random import rank_and_world

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor, nn

MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.json"


@dataclass(frozen=True)
class Progress:
    """What a checkpoint knows about its stage, apart from tensors.

    Attributes:
        stage: name of the stage instance.
        step: steps done.
        steps: steps of the whole stage.
        finished: the stage is complete, its last probe included.
        seconds: wall time spent on the stage so far, over all restarts.
        clips: number and fingerprint of the clips it is trained on.
    """

    stage: str
    step: int
    steps: int
    finished: bool
    seconds: float
    clips: str


def save(
    folder: Path,
    progress: Progress,
    graph: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    keep: int,
    every: int = 1,
) -> None:
    """Write the checkpoint of `progress.step` below `folder` and remove all but the newest `keep`.

    Called on every rank; rank 0 writes. Of steps that are no multiple of `every`, where a run was
    stopped, only the newest stays: those that are left are the same as if it never had been.

    Raises:
        UserError: it could not be written (full disk, no permission); earlier checkpoints are
        untouched.
    """
    # here, because this import takes a second, and whoever reads weights does without
    from torch.distributed.checkpoint import state_dict

    gather = state_dict.StateDictOptions(full_state_dict=True, cpu_offload=True)
    model: dict[str, Any] = state_dict.get_model_state_dict(graph, options=gather)
    gathered: dict[str, Any] = state_dict.get_optimizer_state_dict(graph, optimizer, options=gather)
    state = gathered.get("state", {})  # rank 0 alone gets it
    failure: list[str | None] = [None]
    if rank_and_world()[0] == 0:
        tensors = {
            f"{name}/{key}": value for name, entry in state.items() for key, value in entry.items()
        }
        try:
            _write(folder, progress, model, tensors)
            _remove_old(folder, keep, every)
        except (OSError, SafetensorError) as error:
            failure[0] = str(error)
    if dist.is_initialized():
        dist.broadcast_object_list(failure, src=0)
    if failure[0] is not None:
        earlier = steps_saved(folder)
        resume = (
            f"step {earlier[-1][0]} is intact"
            if earlier
            else "there is no earlier one of this stage"
        )
        raise UserError(
            f"the checkpoint of step {progress.step} could not be written in {folder}: "
            f"{failure[0]}. Of the earlier checkpoints, {resume}. Make room on the disk and run "
            "the same command again."
        )


def steps_saved(folder: Path) -> list[tuple[int, Path]]:
    """The checkpoints below `folder`, oldest first; whether they are intact is not looked at."""
    if not folder.is_dir():
        return []
    found = [
        (int(path.name[5:]), path) for path in folder.glob("step-*") if path.name[5:].isdigit()
    ]
    return sorted(found)


def newest(folder: Path) -> tuple[Path | None, Progress | None, list[str]]:
    """Find the newest intact checkpoint.

    Returns:
        Its folder and progress (None where there is none), and a sentence for each newer one that
        is damaged.
    """
    damaged: list[str] = []
    for _, path in reversed(steps_saved(folder)):
        try:
            return path, check(path), damaged
        except UserError as error:
            damaged.append(str(error))
    return None, None, damaged


def usable(run: Path, stage: str) -> tuple[Path, Progress, list[str]]:
    """As `newest`, for a stage instance of a run.

    Raises:
        UserError: no checkpoint is intact.
    """
    path, progress, damaged = newest(run / "checkpoints" / stage)
    if path is None or progress is None:
        raise UserError(" ".join([f"{run} holds no intact checkpoint of {stage}.", *damaged]))
    return path, progress, damaged


def intact(run: Path, stage: str) -> tuple[Path, Progress]:
    """The newest intact checkpoint of a stage instance of a run; damaged newer ones are named.

    Raises:
        UserError: there is none.
    """
    path, progress, damaged = usable(run, stage)
    if rank_and_world()[0] == 0:
        for sentence in damaged:
            print(f"warning: {run}: {sentence} {path.name} is taken.", file=sys.stderr, flush=True)
    return path, progress


def check(path: Path) -> Progress:
    """Hold a checkpoint against the sizes and checksums it was written with.

    Raises:
        UserError: something is missing or changed.
    """
    progress, files = read_state(path)
    for name, expected in files.items():
        file = path / name
        size = file.stat().st_size if file.is_file() else None
        if size != expected["bytes"]:
            wanted = f"{expected['bytes']:,} bytes"
            found = "is missing" if size is None else f"has {size:,} bytes instead of {wanted}"
            raise UserError(f"checkpoint {path.name} is damaged: {name} {found}.")
        if _sha256(file) != expected["sha256"]:
            raise UserError(
                f"checkpoint {path.name} is damaged: {name} changed since it was written."
            )
    return progress


def read_state(path: Path) -> tuple[Progress, dict[str, Any]]:
    """A checkpoint's progress, and size and checksum of each of its files.

    Raises:
        UserError: state.json is missing or broken.
    """
    try:
        record = json.loads((path / STATE).read_text(encoding="utf-8"))
        if record.pop("sha256") != _seal(record):
            raise ValueError("changed since it was written")
        return Progress(**record["progress"]), record["files"]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"checkpoint {path.name} is damaged: {STATE} cannot be used ({error})."
        ) from error


def load(path: Path, graph: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Put a checkpoint into a graph and its optimizer, sharded or not, whatever number of ranks
    wrote it.

    Raises:
        UserError: a tensor is missing, unknown or has another shape; each is named.
    """
    model: dict[str, Any] = load_file(path / MODEL)
    must_match(
        model, {name: tensor.shape for name, tensor in graph.state_dict().items()}, path.parent.name
    )
    names = {parameter: name for name, parameter in graph.named_parameters()}
    state: dict[str, dict[str, Tensor]] = {}
    for key, tensor in load_file(path / OPTIMIZER).items():
        name, _, entry = key.rpartition("/")
        state.setdefault(name, {})[entry] = tensor
    groups = [
        {
            **{k: v for k, v in group.items() if k != "params"},
            "params": [names[p] for p in group["params"]],
        }
        for group in optimizer.param_groups
    ]
    known = {name for group in groups for name in group["params"]}
    if known != set(state):
        odd = sorted(known ^ set(state))
        raise UserError(
            f"{path.name}/{OPTIMIZER} does not belong to this graph: {len(odd)} parameters are in "
            f"one of them only, such as {odd[0]}."
        )
    saved: dict[str, Any] = {"state": state, "param_groups": groups}
    from torch.distributed.checkpoint import state_dict

    scatter = state_dict.StateDictOptions(full_state_dict=True, strict=True)
    state_dict.set_optimizer_state_dict(graph, optimizer, saved, options=scatter)
    state_dict.set_model_state_dict(graph, model, options=scatter)


def must_match(found: dict[str, Tensor], wanted: dict[str, torch.Size], where: str) -> None:
    """Raise UserError naming every tensor that is missing, unknown or of another shape."""
    complaints = [f"missing {name}" for name in wanted if name not in found]
    complaints += [f"unknown {name}" for name in found if name not in wanted]
    complaints += [
        f"{name} is {list(found[name].shape)} instead of {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name].shape != shape
    ]
    if complaints:
        raise UserError(
            f"the weights of {where} do not fit this graph of {len(wanted)} tensors: "
            + "; ".join(complaints)
        )


def remove_unfinished(folder: Path) -> None:
    """Remove what a killed process left half written."""
    for path in folder.glob(".step-*.tmp"):
        shutil.rmtree(path, ignore_errors=True)


def _write(
    folder: Path, progress: Progress, model: dict[str, Tensor], optimizer: dict[str, Tensor]
) -> None:
    final = folder / f"step-{progress.step:06d}"
    temporary = folder / f".{final.name}.tmp"
    remove_unfinished(folder)
    temporary.mkdir(parents=True)
    try:
        files = {}
        for name, tensors in ((MODEL, model), (OPTIMIZER, optimizer)):
            write_tensors(tensors, temporary / name)
            files[name] = {
                "bytes": (temporary / name).stat().st_size,
                "sha256": _sha256(temporary / name),
            }
        record: dict[str, Any] = {"progress": asdict(progress), "files": files}
        text = json.dumps({**record, "sha256": _seal(record)}, indent=1)
        with open(temporary / STATE, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        _sync(temporary)
        if final.exists():  # damaged, for else training would have gone on from it
            shutil.rmtree(final)
        os.rename(temporary, final)
        _sync(folder)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


def write_tensors(tensors: dict[str, Tensor], path: Path) -> None:
    """Write a safetensors file and flush it to disk."""
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    _sync(path)


def _remove_old(folder: Path, keep: int, every: int) -> None:
    saved = steps_saved(folder)
    due = [path for step, path in saved if step % every == 0 or step == saved[-1][0]]
    for path in {path for _, path in saved}.difference(due[-keep:]):
        hidden = path.with_name(f".{path.name}.tmp")
        os.rename(path, hidden)
        shutil.rmtree(hidden, ignore_errors=True)


def _sync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(record: dict[str, Any]) -> str:
    """Checksum of state.json's own content."""
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()
