"""Language models on disk: one small .safetensors file, for one inventory of units only."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from avssl.errors import UserError
from avssl.files import half_written
from avssl.speech.config import LMSize
from avssl.speech.ngram import NgramLM
from avssl.speech.transformer_lm import TransformerLM
from avssl.speech.units import Units

LanguageModel = NgramLM | TransformerLM


def save_lm(lm: LanguageModel, path: Path, *, units: Units) -> None:
    """Write a model that was trained on texts in `units`, whole or not at all."""
    from safetensors.torch import save_file

    about = {"units": lm.units, "inventory": _inventory(units)}
    if isinstance(lm, NgramLM):
        about |= {"kind": "ngram", "order": lm.order}
        tensors = _as_tensors(lm)
    else:
        about |= {"kind": "transformer", "size": dataclasses.asdict(lm.size)}
        tensors = dict(lm.state_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, half_written(path), metadata={"avssl": json.dumps(about)})
    half_written(path).replace(path)


def load_lm(path: Path, *, units: Units) -> LanguageModel:
    """Read a model for texts in `units`.

    Raises:
        UserError: the file is not there, no language model, or one of other units.
    """
    from safetensors import SafetensorError, safe_open

    if not path.is_file():
        raise UserError(f"there is no language model at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads((file.metadata() or {}).get("avssl", "{}"))
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (SafetensorError, ValueError) as error:
        raise UserError(f"{path} is no language model, or a damaged one ({error})") from None
    if about.get("kind") not in ("ngram", "transformer"):
        raise UserError(f"{path} is no language model")
    if about.get("inventory") != _inventory(units):
        raise UserError(
            f"the language model {path} is of other units than the recogniser's: train it on "
            "texts in the recogniser's units"
        )
    try:
        if about["kind"] == "ngram":
            return _from_tensors(tensors, units=about["units"], order=about["order"])
        lm = TransformerLM(about["units"], LMSize(**about["size"]))
        lm.load_state_dict(tensors)
        return lm.eval().requires_grad_(False)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise UserError(f"the language model {path} is damaged ({error})") from None


def _inventory(units: Units) -> str:
    return hashlib.sha256("\n".join(units.symbols).encode()).hexdigest()


def _as_tensors(lm: NgramLM) -> dict[str, Tensor]:
    """For each length of context: contexts with the unit that follows [M, length + 1], counts."""
    found = {}
    for length, table in enumerate(lm.tables):
        rows = [(*context, unit) for context, after in table.items() for unit in after]
        counts = [count for after in table.values() for count in after.values()]
        found[f"grams.{length}"] = torch.tensor(rows, dtype=torch.int32).view(-1, length + 1)
        found[f"counts.{length}"] = torch.tensor(counts, dtype=torch.int32)
    return found


def _from_tensors(tensors: dict[str, Tensor], *, units: int, order: int) -> NgramLM:
    tables = []
    for length in range(order):
        table: dict[tuple[int, ...], Counter[int]] = {}
        counts = tensors[f"counts.{length}"].tolist()
        for gram, count in zip(tensors[f"grams.{length}"].tolist(), counts, strict=True):
            table.setdefault(tuple(gram[:-1]), Counter())[gram[-1]] = count
        tables.append(table)
    return NgramLM(units, order, tables)
