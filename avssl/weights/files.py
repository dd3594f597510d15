"""Checkpoint files of other projects as plain tensors; nothing in a file is ever executed."""

from __future__ import annotations

import argparse
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from avssl.errors import UserError

WRAPPERS = ("model", "state_dict", "model_state_dict", "module", "net")  # hold the tensors
PREFIXES = ("module.", "_orig_mod.")  # of DataParallel and torch.compile, on every key
HUGGING_FACE = ("model.safetensors", "pytorch_model.bin")
_ZIP, _PICKLE = b"PK\x03\x04", b"\x80"
_PICKLE_LIMIT = 2**24  # bytes of a zip's pickle, which tells the tensors' names and shapes
_REFUSED = re.compile(r"Unsupported (?:global: GLOBAL|class|operand) ([\w.]+)|GLOBAL ([\w.]+)")


@dataclass(frozen=True)
class Checkpoint:
    """What a file holds.

    Attributes:
        path: of the file.
        tensors: by key, wrappers and prefixes of whole files taken off.
        config: config.json beside it. preprocessor: preprocessor_config.json beside it.
    """

    path: Path
    tensors: Mapping[str, Tensor]
    config: Mapping[str, Any] = field(default_factory=dict)
    preprocessor: Mapping[str, Any] = field(default_factory=dict)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a .pth, .pt, .bin or .safetensors file, or a Hugging Face folder.

    Raises:
        UserError: there is no such file, or it is damaged, holds no tensors, or would run code.
    """
    file = _file(path)
    suffix = file.suffix.lower()
    value = _read_safetensors(file) if suffix == ".safetensors" else _read_torch(file)
    tensors = _unwrap(value, file)
    beside = file.parent
    known = file.name in HUGGING_FACE
    return Checkpoint(
        file,
        tensors,
        _read_json(beside / "config.json") if known else {},
        _read_json(beside / "preprocessor_config.json") if known else {},
    )


def _file(path: Path) -> Path:
    if path.is_dir():
        found = [path / name for name in HUGGING_FACE if (path / name).is_file()]
        if not found:
            raise UserError(
                f"{path} is a folder without {' or '.join(HUGGING_FACE)}: give a checkpoint file, "
                "or the folder of a Hugging Face model in one piece"
            )
        path = found[0]
    if not path.is_file():
        raise UserError(f"there is no checkpoint file {path}")
    if path.stat().st_size == 0:
        raise UserError(f"{path} is empty: fetch it again")
    return path


def _read_safetensors(path: Path) -> Any:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{path} is not a whole safetensors file ({_first_line(error)}): fetch it again"
        ) from None


def _read_torch(path: Path) -> Any:
    with open(path, "rb") as file:
        start = file.read(4)
    if not start.startswith((_ZIP, _PICKLE)):
        raise UserError(
            f"{path} is not a checkpoint of PyTorch, which begins otherwise: give a .pth, .pt or "
            ".bin file, or .safetensors under its own name"
        )
    if start == _ZIP:
        _check_entries(path)
    try:
        # MAE's and DeiT's files hold their command line
        with torch.serialization.safe_globals([argparse.Namespace]), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on how the file was pickled
            return torch.load(
                path, map_location="cpu", weights_only=True, mmap=start == _ZIP or None
            )
    except MemoryError:
        raise UserError(
            f"{path}: memory ran out while it was read. It is too large for this machine, or it is "
            "damaged: fetch it again"
        ) from None
    except Exception as error:  # a damaged pickle raises what it likes
        text = str(error)
        refused = _REFUSED.search(text)
        if refused:
            name = refused[1] or refused[2]
            if name.isdigit():
                raise UserError(
                    f"{path} is damaged, or a kind of pickle that torch.save does not write (it "
                    f"has the instruction {name}); it was not run: fetch it again"
                ) from None
            raise UserError(
                f"{path} asks for {name}, which tensors do not need; it was not run. If you trust "
                "the file, save its tensors alone as .safetensors with the project it comes from"
            ) from None
        raise UserError(
            f"{path} is damaged or no checkpoint ({_first_line(error)}): fetch it again"
        ) from None


def _check_entries(path: Path) -> None:
    """Refuse a zip that is not laid out as torch.save does it, before any of it is unpacked."""
    try:
        with zipfile.ZipFile(path) as archive:
            entries = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise UserError(
            f"{path} is damaged or no checkpoint ({_first_line(error)}): fetch it again"
        ) from None
    for entry in entries:
        name = shown(entry.filename)
        # TorchScript compresses its code, which is not read
        if entry.compress_type != zipfile.ZIP_STORED and "/code/" not in entry.filename:
            raise UserError(
                f"{path} is compressed ({name}), which torch.save does not do: unzip it, and zip "
                "it again without compression, or fetch the original"
            )
        if entry.filename.endswith("data.pkl") and entry.file_size > _PICKLE_LIMIT:
            raise UserError(
                f"{path}: {name} takes {entry.file_size / 2**20:.0f} MiB, where names and shapes "
                f"of tensors take less than {_PICKLE_LIMIT // 2**20}: it is no plain checkpoint"
            )


def _unwrap(value: Any, path: Path) -> dict[str, Tensor]:
    """The mapping of tensors inside, without what every key begins with."""
    seen = 0
    while isinstance(value, Mapping) and seen < 5:
        inner = [name for name in WRAPPERS if isinstance(value.get(name), Mapping)]
        if not inner:
            break
        value, seen = value[inner[0]], seen + 1
    if not isinstance(value, Mapping):
        raise UserError(f"{path} holds a {type(value).__name__}, not tensors by name")
    tensors = {shown(str(key)): item for key, item in value.items() if isinstance(item, Tensor)}
    if not tensors:
        names = ", ".join(repr(str(key)[:160]) for key in list(value)[:5]) or "nothing"
        raise UserError(f"{path} holds no tensors by name, but {names}")
    hollow = next((key for key, item in tensors.items() if item.is_meta), None)
    if hollow is not None:
        raise UserError(
            f"{path}: {hollow} is a shape without values (a meta tensor), not plain numbers"
        )
    for prefix in PREFIXES:
        if all(key.startswith(prefix) for key in tensors):
            tensors = {key[len(prefix) :]: item for key, item in tensors.items()}
    return tensors


def _read_json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as error:
        raise UserError(f"{path} cannot be read ({_first_line(error)})") from None
    if not isinstance(value, dict):
        raise UserError(f"{path} is not a mapping")
    return value


def _first_line(error: Exception) -> str:
    text = str(error).strip() or type(error).__name__
    return shown(text.splitlines()[0][:160].rstrip("."))


def shown(name: str) -> str:
    """A name of a file, which no layout has when it holds control characters: these escaped."""
    return name if name.isprintable() else repr(name)[1:-1]
